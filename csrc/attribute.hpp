// An attribute of objects of one type, read from its slot where it has one: in place of a lookup by
// name, which costs half of a tiny tensor's update.
#pragma once

#include <pybind11/pybind11.h>
#include <structmember.h>

#include "without_gil.hpp"

namespace roofstep {

// Names that are looked up, interned as the module is imported. A static variable in a function
// would make the first threads wait for each other, and without the GIL all threads for these.
inline struct Interned {
  PyObject *data, *grad, *is_dense, *is_neg;
} interned;

// What is in the way of a look and no more: not Ctrl-C, nor a lack of memory.
inline bool may_pass(const pybind11::error_already_set& error) {
  return error.matches(PyExc_Exception) && !error.matches(PyExc_MemoryError);
}

// What an object has under this name, or no object: it has none, too, if the look fails by what may
// pass. By pybind11's getattr and hasattr so it would by Ctrl-C.
inline pybind11::object attribute_of(pybind11::handle object, PyObject* name) {
  PyObject* const found = unless_ended([&] { return PyObject_GetAttr(object.ptr(), name); });
  if (!found) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) {  // nearly all
      PyErr_Clear();
      return {};
    }
    const pybind11::error_already_set error;
    if (!may_pass(error)) throw error;
  }
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

inline pybind11::object attribute_of(pybind11::handle object, const char* name) {
  PyObject* const made = PyUnicode_FromString(name);
  if (!made) throw pybind11::error_already_set();
  return attribute_of(object, pybind11::reinterpret_steal<pybind11::object>(made).ptr());
}

class Attribute {
 public:
  Attribute(PyTypeObject* type, PyObject* name) : type_(type), name_(name) {
#ifndef Py_GIL_DISABLED
    // Looked up on the type, a slot gives its descriptor; this also gives the type a version.
    const pybind11::object found = attribute_of(reinterpret_cast<PyObject*>(type), name);
    if (!found) return;
    if (type->tp_getattro == PyObject_GenericGetAttr &&
        Py_TYPE(found.ptr()) == &PyMemberDescr_Type &&
        PyType_IsSubtype(type, PyDescr_TYPE(found.ptr()))) {
      const PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(found.ptr())->d_member;
      if (member->type == T_OBJECT_EX) offset_ = member->offset;
    }
    version_ = type->tp_version_tag;
#endif
  }

  // A new reference; throws with the Python error set. A type that has changed since then has
  // another version, and that of a type without one is 0.
  PyObject* of(PyObject* object) const {
    if (offset_ && Py_TYPE(object) == type_ && version_ && type_->tp_version_tag == version_) {
      PyObject* value = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset_);
      if (value) {
        Py_INCREF(value);
        return value;
      }
    }
    PyObject* value = unless_ended([&] { return PyObject_GetAttr(object, name_); });
    if (!value) throw pybind11::error_already_set();
    return value;
  }

 private:
  PyTypeObject* type_;
  PyObject* name_;
  Py_ssize_t offset_ = 0;
  unsigned version_ = 0;
};

}  // namespace roofstep
