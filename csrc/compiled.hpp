// The compiled door: the table of roofstep.h, which needs no Python.
#pragma once

#include <roofstep/roofstep.h>

namespace roofstep {

extern const roofstep_kernels compiled_door;

}  // namespace roofstep
