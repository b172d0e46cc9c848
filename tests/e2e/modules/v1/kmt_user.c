// SPDX-License-Identifier: GPL-2.0
/* Stands on kmt_core: it can neither be loaded without it nor let it go. */
#include <linux/module.h>

int kmt_answer(void);

static int fail;
module_param(fail, int, 0444);
MODULE_PARM_DESC(fail, "errno that init returns, as a positive number");

static int __init kmt_user_init(void)
{
	pr_info("kmt_user: the answer is %d\n", kmt_answer());
	return -fail;
}
module_init(kmt_user_init);

static void __exit kmt_user_exit(void)
{
}
module_exit(kmt_user_exit);

MODULE_DESCRIPTION("KMM test module: uses a symbol of kmt_core");
MODULE_LICENSE("GPL");
