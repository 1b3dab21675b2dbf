#include "Nets.h"

#include "../support/Rewrite.h"

#include "inv/Abi.h"

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <limits>
#include <sstream>

namespace inv::test {
namespace {

namespace jit = torch::jit;

std::string attributeOf(size_t step, size_t capture) {
  return "c" + std::to_string(step) + "_" + std::to_string(capture);
}

jit::Module stepOf(const Conditioner& conditioner, double xScale,
                   double auxScale) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.xScale = xScale;
  spec.auxScale = auxScale;
  spec.scratch = conditioner.scratch;
  spec.code = conditioner.code;
  return makeStep(spec, conditioner.inner);
}

/// As TorchScript reads a float.
std::string literal(double number) {
  std::ostringstream text;
  text.precision(std::numeric_limits<double>::max_digits10);
  text << std::scientific << number;
  return text.str();
}

/// `t`, or `t * scale`.
std::string scaled(const std::string& t, double scale) {
  return scale == 1 ? t : t + " * " + literal(scale);
}

/// Children whose names say that they are steps.
std::vector<jit::Module> stepsIn(const jit::Module& model) {
  std::vector<jit::Module> result;
  for (const auto& child : model.named_children())
    if (child.name.rfind(abi::kStepPrefix, 0) == 0)
      result.push_back(child.value);
  return result;
}

/// The couplings of a rewritten method, in order.
std::vector<const jit::Node*> couplingsIn(const jit::Graph& graph) {
  std::vector<const jit::Node*> result;
  for (const jit::Node* node : graph.nodes())
    if (node->kind() == c10::Symbol::fromQualString(abi::kCoupling))
      result.push_back(node);
  return result;
}

} // namespace

Conditioner tanhNet(int64_t width, at::ScalarType dtype) {
  Conditioner c;
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    h = torch.tanh(torch.linear(z, w, b))
    return torch.tanh(torch.linear(h, w, b))
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return net(z, p[0], p[1]);
  };
  c.captures = [=] {
    const auto options = at::TensorOptions().dtype(dtype).device(testDevice());
    return Tensors{
        (at::randn({width, width}, options) / std::sqrt(double(width)))
            .requires_grad_(),
        (at::randn({width}, options) * 0.1).requires_grad_()};
  };
  return c;
}

Conditioner expression(const std::string& code,
                       std::function<at::Tensor(const at::Tensor&)> plain) {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor):\n    return " + code + "\n";
  c.plain = [plain = std::move(plain)](const at::Tensor& z, const Tensors&) {
    return plain(z);
  };
  c.captures = [] { return Tensors(); };
  return c;
}

Net::Net(Door door, int64_t steps, const Conditioner& conditioner,
         double xScale, double auxScale)
    // Without the passes there is nothing to rewrite with, and the test skips.
    : door_(door == Door::Rewritten && !canRewrite() ? Door::Archive : door),
      conditioner_(conditioner), xScale_(xScale), auxScale_(auxScale) {
  for (int64_t i = 0; i < steps; i++)
    ofStep.push_back(conditioner.captures());
  if (door_ == Door::Operator) {
    step_ = stepOf(conditioner, xScale, auxScale);
    return;
  }
  if (door_ == Door::Archive) {
    std::stringstream archive;
    builtModel().save(archive);
    model_ = jit::load(archive);
  } else {
    model_ = rewrittenOf(plainModel(), conditioner.rewritable ? steps : 0);
  }
  refresh();
}

jit::Module Net::emptyModel() const {
  jit::Module model(c10::QualifiedName("__torch__.Model"),
                    std::make_shared<jit::CompilationUnit>());
  for (size_t i = 0; i < ofStep.size(); i++)
    for (size_t j = 0; j < ofStep[i].size(); j++)
      if (ofStep[i][j].requires_grad())
        model.register_parameter(attributeOf(i, j), ofStep[i][j], false);
      else
        model.register_buffer(attributeOf(i, j), ofStep[i][j]);
  model.register_attribute("training", c10::BoolType::get(), true);
  return model;
}

/// As inv-opt would write it, but for the order of things.
jit::Module Net::builtModel() const {
  jit::Module model = emptyModel();
  model.register_module("inv_step_0", stepOf(conditioner_, xScale_, auxScale_));
  auto graph = std::make_shared<jit::Graph>();
  const auto list = [&](at::ArrayRef<jit::Value*> values) {
    return graph->insertNode(graph->createList(c10::TensorType::get(), values))
        ->output();
  };
  jit::Value* self = graph->addInput("self")->setType(model.type());
  jit::Value *a = graph->addInput("a"), *b = graph->addInput("b");
  jit::Value* step = graph->insertGetAttr(self, "inv_step_0");
  jit::Value* read = a;
  for (size_t i = 0; i < ofStep.size(); i++) {
    std::vector<jit::Value*> captures;
    for (size_t j = 0; j < ofStep[i].size(); j++)
      captures.push_back(graph->insertGetAttr(self, attributeOf(i, j)));
    jit::Node* call = graph->create(c10::Symbol::fromQualString(abi::kCoupling),
                                    {step, list(a), list(b), list(captures),
                                     graph->insertConstant(c10::IValue())});
    call->output()->setType(c10::ListType::ofTensors());
    graph->insertNode(call);
    jit::Node* out =
        graph->insertNode(graph->createListUnpack(call->output(), 2));
    read = b;
    a = out->output(1);
    b = out->output(0);
  }
  graph->registerOutput(
      graph->insertNode(graph->createTuple({read, b}))->output());
  model.type()->addMethod(model._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*model.type()->name(), "forward"), graph));
  return model;
}

/// The function in plain operators, as a user writes it.
jit::Module Net::plainModel() const {
  jit::Module model = emptyModel();
  for (const auto& [name, module] : conditioner_.inner)
    model.register_module(name, module);
  std::ostringstream code;
  code << conditioner_.code << "\ndef forward(self, a: Tensor, b: Tensor):\n";
  for (size_t i = 0; i < ofStep.size(); i++) {
    std::string call = "self.conditioner(b";
    for (size_t j = 0; j < ofStep[i].size(); j++)
      call += ", self." + attributeOf(i, j);
    code << "    y = " << scaled("a", xScale_) << " + "
         << scaled(call + ")", auxScale_) << "\n"
         << "    a = b\n"
         << "    b = y\n";
  }
  code << "    return a, b\n";
  define(model, code.str());
  return model;
}

void Net::refresh() {
  for (size_t i = 0; i < ofStep.size(); i++)
    for (size_t j = 0; j < ofStep[i].size(); j++)
      ofStep[i][j] = model_.attr(attributeOf(i, j)).toTensor();
}

Tensors Net::operator()(const at::Tensor& x1, const at::Tensor& x2) {
  if (door_ != Door::Operator) {
    const auto out = model_.forward({x1, x2}).toTuple();
    return {out->elements()[0].toTensor(), out->elements()[1].toTensor()};
  }
  at::Tensor a = x1, b = x2, read = x1;
  for (const Tensors& captures : ofStep) {
    Tensors out = coupling(step_, {a}, {b}, captures);
    read = b;
    a = out[1];
    b = out[0];
  }
  return {read, b};
}

Tensors Net::plain(const at::Tensor& x1, const at::Tensor& x2) const {
  at::Tensor a = x1, b = x2;
  for (const Tensors& captures : ofStep) {
    const at::Tensor f = conditioner_.plain(b, captures);
    at::Tensor y =
        (xScale_ == 1 ? a : a * xScale_) + (auxScale_ == 1 ? f : f * auxScale_);
    a = b;
    b = y;
  }
  return {a, b};
}

Tensors Net::captures() const {
  Tensors result;
  for (const Tensors& captures : ofStep)
    result.insert(result.end(), captures.begin(), captures.end());
  return result;
}

Tensors Net::parameters() const {
  Tensors result;
  for (const at::Tensor& t : captures())
    if (t.requires_grad())
      result.push_back(t);
  return result;
}

void Net::set(const char* attribute, const c10::IValue& value) {
  if (door_ == Door::Operator)
    step_.setattr(attribute, value);
  else
    for (jit::Module step : stepsIn(model_))
      step.setattr(attribute, value);
}

void Net::setMode(const std::string& mode) { set(abi::kMode, mode); }

jit::Module Net::step() { return stepAt(0); }

jit::Module Net::stepAt(size_t i) {
  if (door_ == Door::Operator)
    return step_;
  const auto graph = model_.get_method("forward").graph();
  const jit::Node* object = couplingsIn(*graph).at(i)->input(0)->node();
  return model_.attr(object->s(jit::attr::name)).toModule();
}

std::string Net::originOf(size_t step) {
  return stepAt(step).attr(abi::kOrigin).toStringRef();
}

std::string Net::nameOf(size_t step, size_t capture) {
  size_t place = capture;
  if (door_ != Door::Operator) {
    const auto graph = model_.get_method("forward").graph();
    const auto captures =
        couplingsIn(*graph).at(step)->input(3)->node()->inputs();
    const std::string wanted = attributeOf(step, capture);
    place = static_cast<size_t>(
        std::find_if(captures.begin(), captures.end(),
                     [&](const jit::Value* v) {
                       return v->node()->s(jit::attr::name) == wanted;
                     }) -
        captures.begin());
  }
  const auto& arguments = stepAt(step)
                              .get_method(abi::kConditioner)
                              .function()
                              .getSchema()
                              .arguments();
  constexpr size_t kFirst = 2; // behind self and z
  return "capture " + std::to_string(place) + " ('" +
         arguments.at(kFirst + place).name() + "')";
}

jit::Module
modelOf(const std::string& code,
        const std::vector<std::pair<std::string, at::Tensor>>& parameters,
        const std::vector<std::pair<std::string, jit::Module>>& inner) {
  jit::Module model(c10::QualifiedName("__torch__.Model"),
                    std::make_shared<jit::CompilationUnit>());
  for (const auto& [name, tensor] : parameters)
    model.register_parameter(name, tensor,
                             /*is_buffer=*/!tensor.requires_grad());
  for (const auto& [name, module] : inner)
    model.register_module(name, module);
  model.register_attribute("training", c10::BoolType::get(), true);
  define(model, code);
  return model;
}

jit::Module rewrittenOf(const jit::Module& model, int64_t steps) {
  return rewritten(model, steps, testDevice());
}

} // namespace inv::test
