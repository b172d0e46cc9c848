// SPDX-License-Identifier: GPL-2.0
/* Version 1 of the test module. */
#define KMT_ANSWER 41
#include "../kmt_core.h"

MODULE_VERSION("1.0");
