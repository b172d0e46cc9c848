/* SPDX-License-Identifier: GPL-2.0 */
/* What both variants of kmt_core share: every way in which a driver can behave at init and exit. */
#include <linux/delay.h>
#include <linux/firmware.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static int fail;
module_param(fail, int, 0444);
MODULE_PARM_DESC(fail, "errno that init returns, as a positive number");

static char *fw;
module_param(fw, charp, 0444);
MODULE_PARM_DESC(fw, "firmware file that init requests; its size is logged");

static uint delay_ms;
module_param(delay_ms, uint, 0444);
MODULE_PARM_DESC(delay_ms, "milliseconds that init takes, uninterruptible");

static uint exit_delay_ms;
module_param(exit_delay_ms, uint, 0444);
MODULE_PARM_DESC(exit_delay_ms, "milliseconds that exit takes, uninterruptible");

static bool held;

static int set_hold(const char *text, const struct kernel_param *parameter)
{
	bool wanted;
	int error = kstrtobool(text, &wanted);

	if (error)
		return error;
	if (wanted && !held)
		__module_get(THIS_MODULE);
	if (!wanted && held)
		module_put(THIS_MODULE);
	held = wanted;
	return 0;
}

static const struct kernel_param_ops hold_ops = {
	.set = set_hold,
	.get = param_get_bool,
};
module_param_cb(hold, &hold_ops, &held, 0644);
MODULE_PARM_DESC(hold, "Y takes a reference on the module itself, N gives it back");

int kmt_answer(void)
{
	return KMT_ANSWER;
}
EXPORT_SYMBOL(kmt_answer);

/* /dev/kmt_core: a process that has it open holds the module. */
static const struct file_operations kmt_fops = { .owner = THIS_MODULE };

static struct miscdevice kmt_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kmt_core",
	.fops = &kmt_fops,
};

static int request_fw(void)
{
	struct platform_device *device;
	const struct firmware *blob;
	int error;

	device = platform_device_register_simple("kmt_core", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device))
		return PTR_ERR(device);
	error = request_firmware(&blob, fw, &device->dev);
	if (!error) {
		dev_info(&device->dev, "firmware %s has %zu bytes\n", fw, blob->size);
		release_firmware(blob);
	}
	platform_device_unregister(device);
	return error;
}

static int __init kmt_init(void)
{
	int error;

	msleep(delay_ms);
	if (fail) {
		pr_err("kmt_core: told to fail with %d\n", -fail);
		return -fail;
	}
	if (fw) {
		error = request_fw();
		if (error)
			return error;
	}
	return misc_register(&kmt_device);
}
module_init(kmt_init);

static void __exit kmt_exit(void)
{
	misc_deregister(&kmt_device);
	msleep(exit_delay_ms);
}
module_exit(kmt_exit);

MODULE_DESCRIPTION("KMM test module: fails, waits, holds and asks for firmware as it is told");
MODULE_LICENSE("GPL");
