#include "passes/import/onnx/Tensors.h"

#include "passes/support/Error.h"

#include <cstring>
#include <limits>

#include <ATen/ops/empty.h>
#include <fmt/format.h>

namespace inv::opt {

using onnx::TensorProto;

namespace {

[[noreturn]] void bad(const std::string& name, const std::string& message) {
  throw Error(ExitCode::BadInput,
              fmt::format("the tensor '{}' {}", name, message));
}

std::vector<int64_t> sizesOf(const TensorProto& proto, const std::string& name,
                             size_t itemSize) {
  std::vector<int64_t> sizes(proto.dims().begin(), proto.dims().end());
  constexpr auto kMost = uint64_t(std::numeric_limits<int64_t>::max());
  uint64_t bytes = itemSize;
  for (int64_t size : sizes) {
    if (size < 0)
      bad(name, "has a negative size");
    if (size != 0 && bytes > kMost / uint64_t(size))
      bad(name, "has more bytes than can be counted");
    bytes *= uint64_t(size);
  }
  return sizes;
}

/// Where the bytes lie, of data_location EXTERNAL.
ExternalPlace placeOf(const TensorProto& proto, const std::string& name) {
  ExternalPlace place;
  for (const auto& entry : proto.external_data()) {
    if (entry.key() == "location")
      place.location = entry.value();
    else if (entry.key() == "offset")
      place.offset = entry.value();
    else if (entry.key() == "length")
      place.length = entry.value();
    else if (entry.key() != "checksum")
      bad(name, fmt::format("has external data with the unknown key '{}'",
                            entry.key()));
  }
  return place;
}

/// Copies typed elements; `count` of them are needed.
template <typename To, typename Field>
void copy(at::Tensor& to, const Field& field, const std::string& name) {
  if (int64_t(field.size()) != to.numel())
    bad(name,
        fmt::format("has {} values for {} elements", field.size(), to.numel()));
  auto* out = static_cast<To*>(to.mutable_data_ptr());
  for (auto value : field)
    *out++ = static_cast<To>(value);
}

/// How many values the fields hold that are not raw.
uint64_t typedValues(const TensorProto& proto) {
  return uint64_t(proto.float_data_size()) +
         uint64_t(proto.double_data_size()) +
         uint64_t(proto.int32_data_size()) + uint64_t(proto.int64_data_size()) +
         uint64_t(proto.uint64_data_size());
}

void copyTyped(at::Tensor& to, const TensorProto& proto,
               const std::string& name) {
  switch (proto.data_type()) {
  case TensorProto::FLOAT:
    return copy<float>(to, proto.float_data(), name);
  case TensorProto::DOUBLE:
    return copy<double>(to, proto.double_data(), name);
  case TensorProto::INT64:
    return copy<int64_t>(to, proto.int64_data(), name);
  case TensorProto::INT32:
    return copy<int32_t>(to, proto.int32_data(), name);
  case TensorProto::INT16:
  case TensorProto::UINT16:
  case TensorProto::FLOAT16: // their bits
  case TensorProto::BFLOAT16:
    return copy<uint16_t>(to, proto.int32_data(), name);
  case TensorProto::INT8:
  case TensorProto::UINT8:
    return copy<uint8_t>(to, proto.int32_data(), name);
  case TensorProto::BOOL:
    return copy<bool>(to, proto.int32_data(), name);
  case TensorProto::UINT32:
    return copy<uint32_t>(to, proto.uint64_data(), name);
  case TensorProto::UINT64:
    return copy<uint64_t>(to, proto.uint64_data(), name);
  default:
    bad(name, "has its values in a form that is not read");
  }
}

} // namespace

at::ScalarType scalarTypeOf(int onnxType) {
  switch (onnxType) {
  case TensorProto::FLOAT:
    return at::kFloat;
  case TensorProto::DOUBLE:
    return at::kDouble;
  case TensorProto::FLOAT16:
    return at::kHalf;
  case TensorProto::BFLOAT16:
    return at::kBFloat16;
  case TensorProto::INT64:
    return at::kLong;
  case TensorProto::INT32:
    return at::kInt;
  case TensorProto::INT16:
    return at::kShort;
  case TensorProto::INT8:
    return at::kChar;
  case TensorProto::UINT8:
    return at::kByte;
  case TensorProto::UINT16:
    return at::kUInt16;
  case TensorProto::UINT32:
    return at::kUInt32;
  case TensorProto::UINT64:
    return at::kUInt64;
  case TensorProto::BOOL:
    return at::kBool;
  case TensorProto::COMPLEX64:
    return at::kComplexFloat;
  case TensorProto::COMPLEX128:
    return at::kComplexDouble;
  default:
    return at::ScalarType::Undefined;
  }
}

at::Tensor readTensor(const TensorProto& proto, const std::string& name,
                      ExternalData& files) {
  auto dtype = scalarTypeOf(proto.data_type());
  if (dtype == at::ScalarType::Undefined)
    bad(name, fmt::format("is of type {}, which is not read",
                          TensorProto::DataType_IsValid(proto.data_type())
                              ? TensorProto::DataType_Name(
                                    TensorProto::DataType(proto.data_type()))
                              : std::to_string(proto.data_type())));
  if (proto.has_segment())
    bad(name, "is a segment of another");
  size_t itemSize = c10::elementSize(dtype);
  auto sizes = sizesOf(proto, name, itemSize);
  uint64_t count = 1;
  for (int64_t size : sizes)
    count *= uint64_t(size);
  bool external = proto.data_location() == TensorProto::EXTERNAL;
  // Before memory is asked for: what the file does not hold is not allocated.
  if (!external && proto.has_raw_data() &&
      proto.raw_data().size() != count * itemSize)
    bad(name, fmt::format("has {} bytes for {} elements",
                          proto.raw_data().size(), count));
  if (!external && !proto.has_raw_data() && count > typedValues(proto))
    bad(name, fmt::format("has {} values for {} elements", typedValues(proto),
                          count));
  if (external)
    files.check(placeOf(proto, name), name, count * itemSize);
  at::Tensor tensor = at::empty(sizes, at::TensorOptions(dtype));
  auto* data = static_cast<char*>(tensor.mutable_data_ptr());
  if (external)
    files.read(placeOf(proto, name), name, data, count * itemSize);
  else if (proto.has_raw_data() && count > 0)
    std::memcpy(data, proto.raw_data().data(), count * itemSize);
  else if (!proto.has_raw_data())
    copyTyped(tensor, proto, name);
  return tensor;
}

} // namespace inv::opt
