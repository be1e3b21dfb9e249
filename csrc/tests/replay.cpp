// Steps one tensor as told on standard input: the engine without Python, for cross-compiled tests.
//
// Input: a Case, the parameter, then a gradient for each step. Output: the parameter, the states,
// the averaged weights, and the norm of the last gradient. Usage: replay ISA THREADS
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "engine.hpp"

namespace {

// As csrc/tests/test_bits.py packs it.
struct Case {
  char rule[32];
  std::int64_t dtype, size, steps;
  double learning_rate, l1, l2, decay, scale, clip_min, clip_max, limit, adapts, average_decay;
  double slots, begin;  // of the last state
  double carried;       // before the first step
  double fields[roofstep::max_fields];
};

void receive(void* to, std::size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(3);
}

void send(const void* from, std::size_t bytes) {
  if (std::fwrite(from, 1, bytes, stdout) != bytes) std::exit(4);
}

void fill(std::vector<char>& memory, std::int64_t dtype, double value) {
  const float rounded = static_cast<float>(value);
  const std::size_t size = dtype ? sizeof value : sizeof rounded;
  const void* from = dtype ? static_cast<const void*>(&value) : &rounded;
  for (std::size_t i = 0; i < memory.size(); i += size) std::memcpy(&memory[i], from, size);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  roofstep::select_isa(argv[1]);
  Case told;
  receive(&told, sizeof told);
  const int index = roofstep::rule_named(told.rule);
  if (index < 0) return 5;
  const roofstep::Rule& rule = roofstep::kernels().rules[index];

  roofstep::Settings settings{};
  settings.rule = index;
  roofstep::Hyper& hyper = settings.hyper;
  std::memcpy(hyper.fields, told.fields, sizeof hyper.fields);
  hyper.learning_rate = told.learning_rate;
  hyper.l1 = told.l1;
  hyper.l2 = told.l2;
  hyper.decay = told.decay;
  settings.scale = told.scale;
  settings.clip_min = told.clip_min;
  settings.clip_max = told.clip_max;
  settings.adapts = told.adapts != 0;
  if (!rule.mean) settings.average_decay = told.average_decay;

  roofstep::Tensor tensor{};
  tensor.dtype = static_cast<roofstep::Dtype>(told.dtype);
  tensor.size = static_cast<std::size_t>(told.size);
  const std::size_t bytes = tensor.size * (told.dtype ? 8 : 4);
  std::vector<std::vector<char>> memory(3 + roofstep::max_states, std::vector<char>(bytes));
  tensor.param = memory[0].data();
  tensor.grad = memory[1].data();
  tensor.average = memory[2].data();
  tensor.settings = &settings;
  const std::size_t slots = static_cast<std::size_t>(told.slots);
  if (rule.state_count) memory[2 + rule.state_count].resize(slots * bytes);
  for (int s = 0; s < rule.state_count; ++s) tensor.states[s] = memory[3 + s].data();
  tensor.norm = 0;
  std::int64_t count = 0;
  double carried = told.carried;
  tensor.step_count = &count;
  std::vector<roofstep::Norm> norms{{told.limit}};

  if (rule.state_count) fill(memory[2 + rule.state_count], told.dtype, told.begin);
  receive(tensor.param, bytes);
  memory[2] = memory[0];
  tensor.average = memory[2].data();
  for (std::int64_t step = 0; step < told.steps; ++step) {
    receive(tensor.grad, bytes);
    roofstep::Prepared prepared;
    const roofstep::Step now{count + 1, hyper.learning_rate, carried};
    rule.prepare[told.dtype](hyper, now, prepared);
    carried = prepared.carried;
    tensor.prepared = &prepared;
    if (rule.ring) {
      const int last = rule.state_count - 1;
      tensor.states[last] = memory[3 + last].data() + (now.t - 1) % slots * bytes;
    }
    std::vector<roofstep::Tensor> tensors{tensor};
    roofstep::Pass(roofstep::kernels(), tensors, norms, std::atoi(argv[2])).write();
  }
  send(tensor.param, bytes);
  for (int s = 0; s < rule.state_count; ++s) send(memory[3 + s].data(), memory[3 + s].size());
  send(tensor.average, bytes);
  send(&norms[0].value, sizeof(double));
}
