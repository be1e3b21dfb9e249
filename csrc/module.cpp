// The Python door: a table of contents.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>

#include "arrays.hpp"
#include "attribute.hpp"
#include "calls.hpp"
#include "compiled.hpp"
#include "dispatch.hpp"
#include "effects.hpp"
#include "engine.hpp"
#include "gather.hpp"
#include "settings.hpp"
#include "threads.hpp"

namespace py = pybind11;
using namespace py::literals;
using namespace roofstep;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

void select_from_environment() {
  const char* name = std::getenv("ROOFSTEP_ISA");
  try {
    select_isa(name ? name : "");
  } catch (const std::invalid_argument& error) {
    throw py::import_error(std::string("ROOFSTEP_ISA: ") + error.what() +
                           "; set one of these, or unset it for the best");
  }
}

void intern_names() {
  const auto intern = [](const char* name) {
    PyObject* const made = PyUnicode_InternFromString(name);
    if (!made) throw py::error_already_set();
    return made;
  };
  interned = {intern("data"), intern("grad"), intern("is_dense"), intern("is_neg")};
}

py::dict rules() {
  const auto names = [](const char* const* items, int count) {
    py::tuple tuple(count);
    for (int i = 0; i < count; ++i) tuple[i] = items[i];
    return tuple;
  };
  py::dict rules;
  for (int i = 0; i < kernels().rule_count; ++i) {
    const Rule& rule = kernels().rules[i];
    rules[rule.name] =
        py::make_tuple(names(rule.fields, rule.field_count), names(rule.states, rule.state_count),
                       rule.carried, rule.ring, rule.mean);
  }
  return rules;
}

// The object in an instance, once it has been constructed.
template <class Object>
Object* object_of(PyObject* self) {
  auto* const instance = reinterpret_cast<py::detail::instance*>(self);
  const bool made = instance->get_value_and_holder().holder_constructed();
  return made ? py::handle(self).cast<Object*>() : nullptr;
}

// In place of pybind11's, which takes it for granted that there is memory for an instance.
PyObject* new_instance(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* const self = type->tp_alloc(type, 0);
  if (!self) return nullptr;
  try {
    reinterpret_cast<py::detail::instance*>(self)->allocate_layout();
    return self;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();  // and leaves what it cannot take apart
  }
}

// And pybind11's call of a class lets std::bad_alloc go, which would tear the frames of CPython
// that are on its way.
PyObject* call_class(PyObject* type, PyObject* arguments, PyObject* options) {
  try {
    PyTypeObject* const metaclass = py::detail::get_internals().default_metaclass;
    return metaclass->tp_call(type, arguments, options);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

py::object make_metaclass() {
  static PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(call_class)}, {0, nullptr}};
  static PyType_Spec spec{"roofstep._core._Pybind11Type", 0, 0, Py_TPFLAGS_DEFAULT, slots};
  PyObject* const base = reinterpret_cast<PyObject*>(py::detail::get_internals().default_metaclass);
  PyObject* const made = PyType_FromSpecWithBases(&spec, py::make_tuple(py::handle(base)).ptr());
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

void may_lack_memory(PyHeapTypeObject* type) { type->ht_type.tp_new = new_instance; }

// For Python's garbage collector: what the object holds may hold it.
template <class Object>
void collect(PyHeapTypeObject* type) {
  may_lack_memory(type);
  type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Object* const object = object_of<Object>(self);
    return object ? object->traverse(visit, arg) : 0;
  };
  type->ht_type.tp_clear = [](PyObject* self) {
    if (Object* const object = object_of<Object>(self)) object->let_go();
    return 0;
  };
}

}  // namespace

// Python's threads and NumPy's arrays are those of the main interpreter.
constexpr char refusal[] =
    "roofstep cannot be imported in a subinterpreter; import it in the main interpreter, or give "
    "the work to a process of its own";

bool in_subinterpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

PYBIND11_MODULE(_module, m, py::mod_gil_not_used(), py::multiple_interpreters::not_supported()) {
  if (in_subinterpreter()) throw py::import_error(refusal);
  m.doc() = "Fused update kernels over arrays; the Python package around it is the public face.";
  import_numpy();
  intern_names();
  select_from_environment();
  survive_fork();

  m.attr("version") = ROOFSTEP_PACKAGE_VERSION;
  m.attr("compiler") = ROOFSTEP_COMPILER;
  m.attr("kernels") = py::capsule(&compiled_door, ROOFSTEP_CAPSULE);
  m.attr("openmp_version") = openmp_version();
  m.def("default_threads", default_threads, "How many threads work has that names no number.");
  m.def("limit_threads", limit_threads, "most"_a, "Which is no more than this.");
  m.def("isas", available_isas, "The ISAs that this CPU can run, best first.");
  m.def("isa", [] { return kernels().isa; }, "The ISA in use.");
  m.def("set_isa", select_isa, "name"_a, "Uses another of isas(): for tests and benchmarks.");
  m.def("fetch_ahead", fetch_ahead, "How many bytes ahead loops ask for memory; see dispatch.hpp.");
  m.def("set_fetch_ahead", set_fetch_ahead, "bytes"_a, "Another: for tests and benchmarks.");
  m.def("rules", rules,
        "The update rules: name -> (fields, states, carried number or None, field that says how "
        "many slots the last state has or None, its own mean of the parameter or None).");

  const py::object metaclass = make_metaclass();
  py::class_<Settings>(m, "Settings", "What a step does to the parameters of one kind.",
                       py::metaclass(metaclass), py::custom_type_setup(may_lack_memory))
      .def(py::init(&make_settings), "rule"_a, "fields"_a, "l1"_a = 0.0, "l2"_a = 0.0,
           "decay"_a = 0.0, "scale"_a = 1.0, "clip_min"_a = -infinity, "clip_max"_a = infinity,
           "adapts"_a = false, "average_decay"_a = py::none(), "absent"_a = "refused")
      .def_property(
          "learning_rate", [](const Settings& s) { return s.hyper.learning_rate; },
          [](Settings& s, double value) { s.hyper.learning_rate = value; })
      .def(
          "assign", [](Settings& s, const Settings& other) { s = other; }, "other"_a,
          "Takes over another's numbers; the rule must be the same.");

  py::class_<Norm>(m, "Norm", "One L2 norm over gradients, and its limit.",
                   py::metaclass(metaclass), py::custom_type_setup(may_lack_memory))
      .def(py::init([](double limit) { return Norm{limit}; }), "limit"_a)
      .def_readonly("limit", &Norm::limit)
      .def_property_readonly(
          "value", [](const Norm& norm) -> double { return norm.value; },
          "The norm before clipping in the last step.")
      .def_property_readonly(
          "finite", [](const Norm& norm) -> bool { return norm.finite; },
          "Whether every gradient in it was.")
      .def_property_readonly("factor", clip_factor, "What the gradients are multiplied by.")
      .def("measure", measure_rows, "rows"_a, "threads"_a, "Takes it; see calls.hpp.");

  py::class_<Exchange>(m, "Exchange", "Of the two arrays in each (name, parameter, state).",
                       py::metaclass(metaclass), py::custom_type_setup(may_lack_memory))
      .def(py::init<py::tuple>(), "pairs"_a);

  py::class_<Entries>(m, "Entries", "The parameters of an optimizer; see gather.hpp.",
                      py::metaclass(metaclass), py::custom_type_setup(collect<Entries>))
      .def(py::init<py::tuple, const std::vector<std::size_t>&, const std::vector<std::size_t>&>(),
           "rows"_a, "counted"_a, "unscaled"_a = py::tuple())
      .def("step", &Entries::step, "gradients"_a, "counts"_a, "carried"_a, "clear_grad"_a,
           "threads"_a, "grad_scale"_a = 1.0, "skip_nonfinite"_a = false, "records"_a = py::tuple(),
           "shown"_a = py::tuple(), "skipped"_a = py::tuple(),
           "Steps every parameter that has a gradient.");

  m.def(
      "put",
      [](const py::tuple& records, Exchange* exchange) {
        Records told(records);  // and what it replaces dies after the exchange
        told.put();
        if (exchange) exchange->make(true);
      },
      "records"_a, "exchange"_a = py::none(),
      "Puts entries into dicts, pairs of (dict, new entries), and does the exchange: all of it, or "
      "nothing if one fails.");
  py::class_<Alone>(m, "Alone", "Refuses two calls at once; see effects.hpp.",
                    py::metaclass(metaclass), py::custom_type_setup(may_lack_memory))
      .def(py::init<std::string>(), "refusal"_a)
      .def("run", &Alone::run, "function"_a, "Calls it with what follows, if no other call runs.")
      .def_property_readonly("turns", &Alone::turns, "How many calls there have been.");
  py::class_<Swapped>(m, "Swapped", "A block in which arrays are exchanged; see effects.hpp.",
                      py::metaclass(metaclass), py::custom_type_setup(collect<Swapped>))
      .def(py::init<py::object, py::function>(), "alone"_a, "ready"_a)
      .def("__enter__", &Swapped::enter)
      .def("__exit__", [](Swapped& swapped, const py::args&) { swapped.exit(); });

  m.def(
      "is_tensor", [](py::handle object) { return is_tensor(object.ptr()); }, "object"_a,
      "Whether it is a tensor of a library that shows its memory; see arrays.hpp.");
  m.def(
      "as_numpy",
      [](py::handle array, py::str name, const std::string& role) {
        return as_numpy(array.ptr(), {role.c_str(), name.ptr()});
      },
      "array"_a, "name"_a, "role"_a = parameter_role,
      "A NumPy array over the memory of a tensor; an array as it is. The message of a refusal "
      "begins with the role and the name.");
  m.def("check_parameter", check_parameter, "array"_a, "name"_a,
        "Raises, naming the parameter, unless the array could be stepped in place.");
  m.def("check_gradient", check_gradient, "gradient"_a, "parameter"_a, "name"_a, "role"_a = "",
        "Raises, naming the parameter, unless the array could be its gradient.");
  m.def("check_clearable", check_clearable, "gradient"_a, "name"_a,
        "Raises, naming the parameter, unless its gradient could be filled with zeros.");
  m.def("stream", stream_arrays, "updated"_a, "read"_a, "threads"_a,
        "The traffic of an update and nothing else, for benchmarks: see calls.hpp.");
}

// What Python calls, in the subinterpreter up to 3.12: there pybind11's own waits for ever.
PyMODINIT_FUNC PyInit__core() {
  if (!in_subinterpreter()) return PyInit__module();
  PyErr_SetString(PyExc_ImportError, refusal);
  return nullptr;
}
