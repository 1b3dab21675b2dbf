#include "passes/support/Remarks.h"
