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

// What an object has under this name, or no object. By pybind11's getattr and hasattr it would have
// nothing, too, if the look fails, and be it by Ctrl-C.
inline pybind11::object attribute_of(pybind11::handle object, const char* name) {
  PyObject* const found = unless_ended([&] { return PyObject_GetAttrString(object.ptr(), name); });
  if (!found) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw pybind11::error_already_set();
    PyErr_Clear();
  }
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

class Attribute {
 public:
  Attribute(PyTypeObject* type, PyObject* name) : type_(type), name_(name) {
#ifndef Py_GIL_DISABLED
    // Looked up on the type, a slot gives its descriptor; this also gives the type a version.
    PyObject* found = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name);
    if (!found) {
      PyErr_Clear();
      return;
    }
    if (type->tp_getattro == PyObject_GenericGetAttr && Py_TYPE(found) == &PyMemberDescr_Type &&
        PyType_IsSubtype(type, PyDescr_TYPE(found))) {
      const PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(found)->d_member;
      if (member->type == T_OBJECT_EX) offset_ = member->offset;
    }
    version_ = type->tp_version_tag;
    Py_DECREF(found);
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
