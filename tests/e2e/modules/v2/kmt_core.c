// SPDX-License-Identifier: GPL-2.0
/* Version 2 of the test module: same name, another srcversion. */
#define KMT_ANSWER 42
#include "../kmt_core.h"

MODULE_VERSION("2.0");
