// Which table of kernels this process runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace roofstep {

// The names of the ISAs that were built in and that this CPU can run, best first.
std::vector<std::string> available_isas();

// Chooses by name, or the best for an empty name; throws std::invalid_argument for a name that is
// wrong or that this CPU cannot run.
void select_isa(const std::string& name);

const Kernels& kernels();

}  // namespace roofstep
