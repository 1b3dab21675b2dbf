#include "passes/import/onnx/ReadOnnx.h"

#include "passes/import/onnx/Functions.h"
#include "passes/import/onnx/Tensors.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <algorithm>
#include <fstream>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <onnx/checker.h>
#include <onnx/defs/parser.h>
#include <onnx/defs/schema.h>
#include <onnx/inliner/inliner.h>
#include <onnx/shape_inference/implementation.h>

namespace inv::opt {

using onnx::ModelProto;

namespace {

constexpr int kOldestOpset = 13;
/// Initializers up to this size stay in the file's own form while types are
/// inferred, since shapes may follow from their values.
constexpr int64_t kSmallElements = 1024;
constexpr int kDeepestText = 100;

class Reader {
public:
  Reader(const std::string& path, bool isText, const Covers& covers)
      : path_(path), name_(path == "-" ? "standard input" : path),
        isText_(isText), covers_(covers), files_(path == "-" ? "" : path) {}

  OnnxModel read(const std::string& bytes) {
    parse(bytes);
    checkHead();
    checkFunctions(proto_);
    readInitializers();
    contained("is not valid ONNX", [&] {
      onnx::checker::check_model(proto_);
      onnx::inliner::InlineLocalFunctions(proto_);
    });
    expandFunctions();
    writeDefaults();
    contained("has types or shapes that do not fit", [&] {
      onnx::ShapeInferenceOptions options(true, 1, true);
      onnx::shape_inference::InferShapes(
          proto_, onnx::OpSchemaRegistry::Instance(), options);
    });
    convert();
    return std::move(model_);
  }

private:
  [[noreturn]] void bad(const std::string& message) const {
    throw Error(ExitCode::BadInput, fmt::format("{}: {}", name_, message));
  }

  /// Runs a piece of ONNX's library; what it throws is about the file.
  template <typename F> void contained(const char* what, F f) const {
    try {
      f();
    } catch (const Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      bad(fmt::format("{}: {}", what, firstLines(error.what())));
    }
  }

  /// ONNX's messages have lines of context; on one line, not too long.
  static std::string firstLines(const std::string& text) {
    std::string line;
    for (char c : text) {
      if (c == '\n')
        line += line.empty() || line.back() == ' ' ? "" : " ";
      else
        line += c;
    }
    constexpr size_t kMost = 600;
    if (line.size() > kMost)
      line = line.substr(0, kMost) + " ...";
    return std::string(trim(line));
  }

  void parse(const std::string& bytes) {
    if (isText_)
      return parseText(bytes);
    bool done = false;
    if (path_ == "-") {
      done = proto_.ParseFromString(bytes);
    } else {
      std::ifstream file(path_, std::ios::binary | std::ios::ate);
      if (!file)
        throw Error(ExitCode::Io, name_ + ": cannot be read");
      if (file.tellg() > std::streamoff{0x7fffffff})
        bad("is larger than 2 GiB, the most that one protobuf message may "
            "have; "
            "save the weights as external data");
      file.seekg(0);
      google::protobuf::io::IstreamInputStream stream(&file);
      google::protobuf::io::CodedInputStream coded(&stream);
      coded.SetTotalBytesLimit(0x7fffffff);
      done =
          proto_.ParseFromCodedStream(&coded) && coded.ConsumedEntireMessage();
    }
    if (!done)
      bad("is no ONNX model, or is damaged (not a protobuf message)");
  }

  void parseText(const std::string& bytes) {
    // The parser goes down once for each graph inside of another.
    if (bytes.find('\0') != std::string::npos)
      bad("is no text");
    int depth = 0;
    for (char c : bytes) {
      depth += (c == '{') - (c == '}');
      if (depth > kDeepestText)
        bad(fmt::format("is nested more than {} deep", kDeepestText));
    }
    onnx::OnnxParser parser(bytes.c_str());
    auto status = parser.Parse(proto_);
    if (!status.IsOK())
      bad(firstLines(status.ErrorMessage()));
    if (!parser.EndOfInput())
      bad("has text behind the model");
  }

  void checkHead() {
    if (!proto_.has_graph() || proto_.opset_import_size() == 0)
      bad("is no ONNX model (it has no graph, or no opset)");
    int opset = 0;
    for (const auto& import : proto_.opset_import())
      if (import.domain().empty() || import.domain() == "ai.onnx")
        opset = int(std::clamp<int64_t>(import.version(), 0, 1 << 20));
    if (opset < kOldestOpset || opset > newestOpset())
      bad(fmt::format("is of opset {}; opsets {} to {} are read", opset,
                      kOldestOpset, newestOpset()));
    opset_ = opset;
    if (proto_.training_info_size() > 0)
      bad("holds a training graph (training_info), which is not read");
    if (proto_.graph().sparse_initializer_size() > 0)
      bad("has sparse initializers, which are not read");
    std::set<std::string> inputs;
    for (const auto& input : proto_.graph().input())
      if (!inputs.insert(input.name()).second)
        bad(fmt::format("has two inputs '{}'", input.name()));
  }

  /// Tensors leave the file's form one by one, so that no weight is there
  /// twice; large ones, and those in other files, become inputs for as long as
  /// ONNX's library looks at the graph.
  void readInitializers() {
    auto* graph = proto_.mutable_graph();
    std::set<std::string> given, names;
    for (const auto& input : graph->input())
      given.insert(input.name());
    auto* all = graph->mutable_initializer();
    int kept = 0;
    for (int i = 0; i < all->size(); ++i) {
      auto& tensor = *all->Mutable(i);
      const std::string name = tensor.name();
      if (!names.insert(name).second)
        bad(fmt::format("has two initializers '{}'", name));
      OnnxInitializer initializer;
      initializer.name = name;
      initializer.value =
          inFile([&] { return readTensor(tensor, name, files_); });
      bool small = initializer.value.numel() <= kSmallElements &&
                   tensor.data_location() != onnx::TensorProto::EXTERNAL;
      model_.initializers.push_back(std::move(initializer));
      if (small) {
        all->SwapElements(kept++, i);
        continue;
      }
      if (given.count(name) == 0)
        declareInput(tensor);
      tensor.Clear();
    }
    all->DeleteSubrange(kept, all->size() - kept);
    initializers_ = std::move(names);
    readRoles();
  }

  template <typename F> at::Tensor inFile(F f) const {
    try {
      return f();
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", name_, error.what()));
    }
  }

  void declareInput(const onnx::TensorProto& tensor) {
    auto* input = proto_.mutable_graph()->add_input();
    input->set_name(tensor.name());
    auto* type = input->mutable_type()->mutable_tensor_type();
    type->set_elem_type(tensor.data_type());
    auto* shape = type->mutable_shape();
    for (int64_t size : tensor.dims())
      shape->add_dim()->set_dim_value(size);
  }

  /// PyTorch's newer exporter notes of each initializer what it was.
  void readRoles() {
    std::map<std::string, std::string> roles;
    auto look = [&](const auto& infos) {
      for (const auto& info : infos)
        for (const auto& entry : info.metadata_props())
          if (entry.key() == "pkg.torch.export.graph_signature.InputSpec.kind")
            roles[info.name()] = entry.value();
    };
    look(proto_.graph().value_info());
    look(proto_.graph().input());
    for (auto& initializer : model_.initializers) {
      auto it = roles.find(initializer.name);
      if (it != roles.end())
        initializer.role =
            it->second == "PARAMETER" ? OnnxRole::Parameter : OnnxRole::Buffer;
      else if (!roles.empty())
        initializer.role = OnnxRole::Buffer; // a constant of the exporter's
    }
  }

  const onnx::OpSchema* schemaOf(const onnx::NodeProto& node) const {
    bool own = node.domain().empty() || node.domain() == "ai.onnx";
    return own ? onnx::OpSchemaRegistry::Schema(node.op_type(), opset_, "")
               : nullptr;
  }

  /// Operators that are not covered, but are functions of others.
  void expandFunctions() {
    constexpr int kRounds = 4; // functions of functions
    for (int round = 0; round < kRounds; ++round) {
      std::set<std::pair<std::string, std::string>> ids;
      for (const auto& node : proto_.graph().node()) {
        const auto* schema = schemaOf(node);
        if (schema && !covers_(node.op_type(), schema->SinceVersion()) &&
            (schema->HasFunction() || schema->HasContextDependentFunction()))
          ids.insert({node.domain(), node.op_type()});
      }
      if (ids.empty())
        return;
      contained("cannot be inlined", [&] {
        auto set =
            onnx::inliner::FunctionIdSet::Create({ids.begin(), ids.end()});
        onnx::inliner::InlineSelectedFunctions(
            proto_, *set, onnx::OpSchemaRegistry::Instance());
      });
    }
  }

  /// Inference walks through the functions that define operators, and there
  /// misses attributes that a node leaves to their defaults.
  void writeDefaults() {
    for (auto& node : *proto_.mutable_graph()->mutable_node()) {
      const auto* schema = schemaOf(node);
      if (!schema || !schema->HasFunction())
        continue;
      std::set<std::string> given;
      for (const auto& attribute : node.attribute())
        given.insert(attribute.name());
      for (const auto& [name, attribute] : schema->attributes())
        if (attribute.default_value.has_name() && given.count(name) == 0)
          *node.add_attribute() = attribute.default_value;
    }
  }

  // ---------------------------------------------------- to our own structures

  void convert() {
    const auto& graph = proto_.graph();
    model_.name = graph.name();
    for (const auto& input : graph.input()) {
      addType(input);
      if (initializers_.count(input.name()) > 0)
        continue;
      if (!input.type().has_tensor_type())
        bad(fmt::format("has the input '{}', which is no tensor",
                        input.name()));
      model_.inputs.push_back(input.name());
    }
    for (const auto& value : graph.value_info())
      addType(value);
    for (const auto& output : graph.output()) {
      addType(output);
      if (!output.type().has_tensor_type())
        bad(fmt::format("has the output '{}', which is no tensor",
                        output.name()));
      model_.outputs.push_back(output.name());
    }
    for (const auto& node : graph.node())
      model_.nodes.push_back(converted(node));
  }

  void addType(const onnx::ValueInfoProto& info) {
    if (!info.type().has_tensor_type())
      return;
    const auto& tensor = info.type().tensor_type();
    OnnxType type;
    type.dtype = scalarTypeOf(tensor.elem_type());
    if (tensor.has_shape()) {
      type.shape.emplace();
      for (const auto& dim : tensor.shape().dim())
        type.shape->push_back(dim.has_dim_value() && dim.dim_value() >= 0
                                  ? dim.dim_value()
                                  : kDynamic);
    }
    model_.types[info.name()] = std::move(type);
  }

  OnnxNode converted(const onnx::NodeProto& node) {
    OnnxNode out;
    out.op = node.op_type();
    out.domain = node.domain() == "ai.onnx" ? "" : node.domain();
    out.name = node.name();
    const auto* schema = schemaOf(node);
    out.version = schema ? schema->SinceVersion() : 0;
    out.inputs = {node.input().begin(), node.input().end()};
    out.outputs = {node.output().begin(), node.output().end()};
    while (!out.inputs.empty() && out.inputs.back().empty())
      out.inputs.pop_back();
    for (const auto& attribute : node.attribute())
      out.attributes[attribute.name()] = converted(attribute, node);
    out.text = fmt::format("{} = {}({})", fmt::join(out.outputs, ", "), out.op,
                           fmt::join(out.inputs, ", "));
    return out;
  }

  OnnxAttribute converted(const onnx::AttributeProto& attribute,
                          const onnx::NodeProto& node) {
    using Kind = OnnxAttribute::Kind;
    OnnxAttribute out;
    switch (attribute.type()) {
    case onnx::AttributeProto::INT:
      out.kind = Kind::Int;
      out.i = attribute.i();
      break;
    case onnx::AttributeProto::FLOAT:
      out.kind = Kind::Float;
      out.f = decimal(attribute.f());
      break;
    case onnx::AttributeProto::STRING:
      out.kind = Kind::String;
      out.s = attribute.s();
      break;
    case onnx::AttributeProto::INTS:
      out.kind = Kind::Ints;
      out.ints = {attribute.ints().begin(), attribute.ints().end()};
      break;
    case onnx::AttributeProto::FLOATS:
      out.kind = Kind::Floats;
      out.floats = {attribute.floats().begin(), attribute.floats().end()};
      break;
    case onnx::AttributeProto::STRINGS:
      out.kind = Kind::Strings;
      out.strings = {attribute.strings().begin(), attribute.strings().end()};
      break;
    case onnx::AttributeProto::TENSOR:
      out.kind = Kind::Tensor;
      if (scalarTypeOf(attribute.t().data_type()) != at::ScalarType::Undefined)
        out.t = inFile([&] {
          return readTensor(attribute.t(),
                            fmt::format("{}.{}", node.name(), attribute.name()),
                            files_);
        });
      break;
    default:
      out.kind = Kind::Other;
    }
    return out;
  }

  const std::string& path_;
  std::string name_;
  bool isText_;
  const Covers& covers_;
  ExternalData files_;
  ModelProto proto_;
  int opset_ = 0;
  std::set<std::string> initializers_;
  OnnxModel model_;
};

} // namespace

OnnxModel readOnnx(const std::string& path, const std::string& bytes,
                   bool isText, const Covers& covers) {
  return Reader(path, isText, covers).read(bytes);
}

int newestOpset() {
  return onnx::OpSchemaRegistry::DomainToVersionRange::Instance()
      .Map()
      .at("")
      .second;
}

} // namespace inv::opt
