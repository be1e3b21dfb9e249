// How array libraries show their memory to C: what roofstep uses of DLPack 1.3, and who offers it.
#pragma once

#include <Python.h>

#include <cstdint>

namespace roofstep::dlpack {

// The layout of these structs is DLPack's; the names are ours.

struct Version {
  std::uint32_t major, minor;
};

struct Device {
  std::int32_t type, id;
};
inline constexpr std::int32_t cpu = 1;

struct Element {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
inline constexpr std::uint8_t floating_point = 2, complex_number = 5;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  Element element;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null, before DLPack 1.2, for C order
  std::uint64_t byte_offset;
};

// A tensor that keeps its memory alive until it is released.
struct Shared {
  Version version;
  void* context;
  void (*release)(Shared* self);
  std::uint64_t flags;
  Tensor tensor;
};
inline constexpr std::uint64_t read_only = 1;

struct Header {
  Version version;
  const Header* older;  // the table of an older version, or null
};

// The functions of a library; they return 0, or -1 with a Python error set.
struct Table {
  Header header;
  void* allocate;
  int (*share)(void* object, Shared** out);
  void* adopt;
  int (*show)(void* object, Tensor* out);  // borrows: all of it is valid as long as the object is
  void* stream;
};

// What a type or one of its bases offers.
struct Library {
  const Table* table;  // null: none, or none that can show
  // Whether tensors have these methods: a table says nothing of what they tell.
  bool is_neg;    // torch: whether a tensor is lazily negated
  bool is_dense;  // Paddle, whose table takes sparse tensors for dense ones
};

// Types that derive from `excluded` count as offering nothing. Throws with the Python error set.
Library library_of(PyTypeObject* type, PyTypeObject* excluded);

}  // namespace roofstep::dlpack
