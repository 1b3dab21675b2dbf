#include "Nets.h"

#include "inv/Abi.h"

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>

namespace inv::test {
namespace {

namespace jit = torch::jit;

std::string nameOf(size_t step, size_t capture) {
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
  return makeStep(spec);
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
    : door_(door), conditioner_(conditioner), xScale_(xScale),
      auxScale_(auxScale), step_(stepOf(conditioner, xScale, auxScale)) {
  for (int64_t i = 0; i < steps; i++)
    ofStep.push_back(conditioner.captures());
  if (door == Door::Archive)
    makeModel();
}

void Net::makeModel() {
  jit::Module model(c10::QualifiedName("__torch__.Model"),
                    std::make_shared<jit::CompilationUnit>());
  for (size_t i = 0; i < ofStep.size(); i++)
    for (size_t j = 0; j < ofStep[i].size(); j++)
      if (ofStep[i][j].requires_grad())
        model.register_parameter(nameOf(i, j), ofStep[i][j], false);
      else
        model.register_buffer(nameOf(i, j), ofStep[i][j]);
  model.register_module("inv_step_0", step_);
  model.register_attribute("training", c10::BoolType::get(), true);
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
      captures.push_back(graph->insertGetAttr(self, nameOf(i, j)));
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
  std::stringstream archive;
  model.save(archive);
  model_ = jit::load(archive);
  step_ = model_.attr("inv_step_0").toModule();
  refresh();
}

void Net::refresh() {
  for (size_t i = 0; i < ofStep.size(); i++)
    for (size_t j = 0; j < ofStep[i].size(); j++)
      ofStep[i][j] = model_.attr(nameOf(i, j)).toTensor();
}

Tensors Net::operator()(const at::Tensor& x1, const at::Tensor& x2) {
  if (door_ == Door::Archive) {
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

void Net::setMode(const std::string& mode) { step_.setattr(abi::kMode, mode); }

} // namespace inv::test
