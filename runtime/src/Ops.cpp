#include <torch/library.h>
#include "inv/Abi.h"
