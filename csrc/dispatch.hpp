// Which table of kernels this process runs.
#pragma once

#include <cstddef>
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

// The index of a rule, the same in every table and there from the start; -1 for none of this name.
int rule_named(const char* name);

// How many bytes ahead the loops ask the memory for what they will read, on CPUs that gain by it; 0
// where the hardware does better alone. No bit of a result depends on it.
std::size_t fetch_ahead();
void set_fetch_ahead(std::size_t bytes);

}  // namespace roofstep
