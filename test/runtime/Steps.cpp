#include "Steps.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/api/object.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>
#include <torch/library.h>

#include <dlfcn.h>

#include <atomic>
#include <filesystem>
#include <mutex>

#include <chrono>
#include <thread>

namespace inv::test {

namespace {

/// Besides what TorchScript knows, `invtest` is the operators below, `inv`
/// those of the library, and `fork` is torch.jit.fork.
struct TestResolver final : torch::jit::NativeResolver {
  std::shared_ptr<torch::jit::SugaredValue>
  resolveValue(const std::string& name, torch::jit::GraphFunction& function,
               const torch::jit::SourceRange& range) override {
    if (name == "invtest" || name == "inv")
      return std::make_shared<torch::jit::BuiltinModule>(name);
    if (name == "fork")
      return torch::jit::SpecialFormValue::create(c10::prim::fork);
    return NativeResolver::resolveValue(name, function, range);
  }
};

} // namespace

torch::jit::Module
makeStep(const StepSpec& spec,
         const std::vector<std::pair<std::string, torch::jit::Module>>& inner,
         const std::vector<std::pair<std::string, at::Tensor>>& parameters) {
  static int number = 0;
  const std::string name =
      std::string(abi::kClassPrefix) + std::to_string(number++);
  torch::jit::Module step(c10::QualifiedName(name),
                          std::make_shared<torch::jit::CompilationUnit>());
  auto type = step.type();
  type->addConstant(abi::kNumStates, spec.numStates);
  type->addConstant(abi::kNumAux, spec.numAux);
  type->addConstant(abi::kNumSides, spec.numSides);
  type->addConstant(abi::kFunctionCaptures, spec.functionCaptures);
  type->addConstant(abi::kFunctionExtras, spec.functionExtras);
  type->addConstant(abi::kScratch, spec.scratch);
  type->addConstant(abi::kArithmetic, spec.arithmetic);
  type->addConstant(abi::kXScale, spec.xScale);
  type->addConstant(abi::kAuxScale, spec.auxScale);
  step.register_attribute(abi::kMode, c10::StringType::get(),
                          std::string(abi::kInvert));
  step.register_attribute(abi::kPreserveRng, c10::BoolType::get(), true);
  step.register_attribute(abi::kOrigin, c10::StringType::get(), spec.origin);
  step.register_attribute(abi::kMaxGrowth, c10::FloatType::get(), 100.0);
  for (const auto& [called, module] : inner)
    step.register_module(called, module);
  for (const auto& [called, tensor] : parameters)
    step.register_parameter(called, tensor, /*is_buffer=*/false);
  define(step, spec.code);
  return step;
}

void define(const torch::jit::Module& module, const std::string& code) {
  torch::jit::Module(module).define(code, std::make_shared<TestResolver>());
}

torch::jit::Module sumStep(double xScale, double auxScale) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.xScale = xScale;
  spec.auxScale = auxScale;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    h = torch.tanh(torch.linear(z, w, b))
    return torch.tanh(torch.linear(h, w, b))
)";
  return makeStep(spec);
}

at::Tensor net(const at::Tensor& z, const at::Tensor& w, const at::Tensor& b) {
  return at::tanh(at::linear(at::tanh(at::linear(z, w, b)), w, b));
}

c10::IValue callOp(const char* name, std::vector<c10::IValue> arguments) {
  auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  op.callBoxed(&arguments);
  return arguments.empty() ? c10::IValue() : arguments.back();
}

Tensors coupling(const torch::jit::Module& step, const Tensors& x,
                 const Tensors& z, const Tensors& captures,
                 c10::IValue extras) {
  return callOp(abi::kCoupling,
                {step._ivalue(), x, z, captures, std::move(extras)})
      .toTensorVector();
}

Tensors bijection(const torch::jit::Module& step, const Tensors& x,
                  const Tensors& captures, c10::IValue extras) {
  return callOp(abi::kBijection,
                {step._ivalue(), x, captures, std::move(extras)})
      .toTensorVector();
}

Tensors checkpoint(const torch::jit::Module& step, const Tensors& z,
                   const Tensors& captures, c10::IValue extras) {
  return callOp(abi::kCheckpoint,
                {step._ivalue(), z, captures, std::move(extras)})
      .toTensorVector();
}

namespace {

namespace ag = torch::autograd;

struct Checkpointed : ag::Function<Checkpointed> {
  static ag::variable_list forward(ag::AutogradContext* context,
                                   at::TensorList inputs,
                                   TensorsToTensors body) {
    context->save_for_backward(inputs.vec());
    at::NoGradGuard noGrad;
    Tensors outputs;
    for (const at::Tensor& t : body(inputs.vec()))
      outputs.push_back(t.detach());
    context->saved_data["body"] =
        c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(body)));
    return outputs;
  }

  static ag::variable_list backward(ag::AutogradContext* context,
                                    const ag::variable_list& grads) {
    const Tensors inputs = leaves(context->get_saved_variables());
    const auto holder = c10::static_intrusive_pointer_cast<Holder>(
        context->saved_data["body"].toCapsule());
    at::AutoGradMode grad(true);
    ag::backward(holder->body(inputs), grads);
    Tensors result = gradsOf(inputs);
    result.emplace_back(); // of the body
    return result;
  }

private:
  struct Holder : torch::CustomClassHolder {
    explicit Holder(TensorsToTensors b) : body(std::move(b)) {}
    TensorsToTensors body;
  };
};

} // namespace

c10::DeviceType& testDevice() {
  static c10::DeviceType device = at::kCPU;
  return device;
}

bool haveGpu() {
  // The tests are not linked to LibTorch's CUDA side, which takes its time to
  // load.
  static const bool have = [] {
    return std::filesystem::exists("/dev/nvidiactl") &&
           dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr &&
           at::globalContext().hasCUDA() &&
           at::detail::getCUDAHooks().deviceCount() > 0;
  }();
  return have;
}

Tensors checkpointed(TensorsToTensors body, const Tensors& inputs) {
  return Checkpointed::apply(at::TensorList(inputs), std::move(body));
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) {
    const at::Tensor& t = a.defined() ? a : b;
    return t.defined() ? t.abs().max().item<double>() : 0;
  }
  if (a.sizes() != b.sizes())
    return INFINITY;
  if (a.numel() == 0)
    return 0;
  const double difference = (a - b).abs().max().item<double>();
  const double size = b.abs().max().item<double>();
  return difference == 0 ? 0 : difference / size;
}

double distance(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size())
    return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); i++) {
    const double d = distance(a[i], b[i]);
    if (!(d <= worst)) // NaN counts as far
      worst = d;
  }
  return worst;
}

void compare(const std::function<Tensors(const Tensors&)>& ours,
             const std::function<Tensors(const Tensors&)>& plain,
             const Tensors& inputs, double bound) {
  const auto run = [&](const auto& f, bool twice, Tensors* values) {
    Tensors x = leaves(inputs);
    Tensors start; // not leaves: the steps may drop them
    for (const at::Tensor& t : x)
      start.push_back(t * 1);
    const Tensors y = f(start);
    *values = y;
    at::Tensor loss = at::zeros({}, y[0].options());
    for (size_t i = 0; i < y.size(); i++)
      loss = loss + (y[i] * (0.3 + 0.1 * double(i))).sin().sum();
    Tensors g = torch::autograd::grad({loss}, x, {}, twice, twice, true);
    if (!twice)
      return g;
    at::Tensor sum = at::zeros({}, y[0].options());
    for (const at::Tensor& t : g)
      if (t.defined())
        sum = sum + (t * t).sum();
    return torch::autograd::grad({sum}, x, {}, false, false, true);
  };
  for (bool twice : {false, true}) {
    Tensors values, reference;
    const Tensors a = run(ours, twice, &values);
    const Tensors b = run(plain, twice, &reference);
    ASSERT_EQ(values.size(), reference.size());
    for (size_t i = 0; i < values.size(); i++)
      EXPECT_TRUE(at::equal(values[i], reference[i])) << "output " << i;
    EXPECT_LE(distance(a, b), twice ? 100 * bound : bound)
        << (twice ? "second" : "first") << " derivative";
  }
}

Tensors leaves(const Tensors& t) {
  Tensors result;
  for (const at::Tensor& e : t)
    result.push_back(e.detach().clone().requires_grad_());
  return result;
}

Tensors gradsOf(const Tensors& leaves) {
  Tensors result;
  for (const at::Tensor& e : leaves)
    result.push_back(e.grad().defined() ? e.grad().clone() : at::Tensor());
  return result;
}

Chain::Chain(int64_t blocks, int64_t width, at::ScalarType dtype,
             double xScaleIn, double auxScaleIn)
    : step(sumStep(xScaleIn, auxScaleIn)), xScale(xScaleIn),
      auxScale(auxScaleIn) {
  const auto options = at::TensorOptions().dtype(dtype);
  for (int64_t i = 0; i < 2 * blocks; i++) {
    parameters.push_back(
        (at::randn({width, width}, options) / std::sqrt(double(width)))
            .requires_grad_());
    parameters.push_back((at::randn({width}, options) * 0.1).requires_grad_());
  }
}

Tensors Chain::run(const at::Tensor& x1, const at::Tensor& x2) const {
  at::Tensor a = x1, b = x2;
  for (size_t i = 0; i + 1 < parameters.size(); i += 2) {
    // The stream that was changed is the one that is read next.
    Tensors out = coupling(step, {a}, {b}, {parameters[i], parameters[i + 1]});
    a = out[1];
    b = out[0];
  }
  return {a, b};
}

Tensors Chain::plain(const at::Tensor& x1, const at::Tensor& x2) const {
  at::Tensor a = x1, b = x2;
  for (size_t i = 0; i + 1 < parameters.size(); i += 2) {
    const at::Tensor f = net(b, parameters[i], parameters[i + 1]);
    at::Tensor y =
        (xScale == 1 ? a : a * xScale) + (auxScale == 1 ? f : f * auxScale);
    a = b;
    b = y;
  }
  return {a, b};
}

void Chain::zeroGrad() {
  for (at::Tensor& p : parameters)
    p.mutable_grad() = at::Tensor();
}

namespace {

std::atomic<int64_t> calls{0}, callsUntilFailure{0};

at::Tensor note(const at::Tensor& t) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  TestOps::strides().push_back(t.strides().vec());
  return t.view_as(t);
}

at::Tensor failAfter(const at::Tensor& t, int64_t n) {
  TORCH_CHECK(++calls <= n, "planted");
  return t.view_as(t);
}

at::Tensor failOnce(const at::Tensor& t) {
  TestOps::mayFail();
  return t.view_as(t);
}

at::Tensor bySwitch(const at::Tensor& t) {
  return t * (at::globalContext().userEnabledMkldnn() ? 2 : 3);
}
at::Tensor byMode(const at::Tensor& t) {
  return t * (at::globalContext().deterministicAlgorithms() ? 2 : 3);
}

at::Tensor twice(const at::Tensor& t) { return t * 2; }

[[maybe_unused]] const bool trustsTheTestsOperators = [] {
  for (const char* name :
       {"note", "fail_after", "fail_once", "draw_once", "by_switch", "by_mode"})
    trustOperator(std::string("invtest::") + name);
  return true;
}();

at::Tensor drawOnce(const at::Tensor& t) {
  if (++calls == 1)
    at::rand({1});
  return t.view_as(t);
}

} // namespace

std::vector<std::vector<int64_t>>& TestOps::strides() {
  static std::vector<std::vector<int64_t>> all;
  return all;
}

int64_t TestOps::failIn(int64_t n) { return callsUntilFailure.exchange(n); }

void TestOps::mayFail() {
  if (callsUntilFailure > 0)
    TORCH_CHECK(--callsUntilFailure > 0, "planted");
}

void TestOps::reset() {
  strides().clear();
  calls = 0;
  callsUntilFailure = 0;
}

void expectNothingAlive() {
  // The thread of a forked part lets go a moment after its result is there.
  Stats s = stats();
  for (int i = 0; i < 200 && s.liveNodes != 0; i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    s = stats();
  }
  EXPECT_EQ(s.liveNodes, 0);
  EXPECT_EQ(s.liveRecords, 0);
  EXPECT_EQ(s.liveSlots, 0);
}

std::string messageOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

} // namespace inv::test

TORCH_LIBRARY(invtest, m) {
  m.def("note(Tensor t) -> Tensor", &inv::test::note);
  m.def("draw_once(Tensor t) -> Tensor", &inv::test::drawOnce);
  m.def("fail_after(Tensor t, int n) -> Tensor", &inv::test::failAfter);
  m.def("fail_once(Tensor t) -> Tensor", &inv::test::failOnce);
  m.def("by_switch(Tensor t) -> Tensor", &inv::test::bySwitch);
  m.def("by_mode(Tensor t) -> Tensor", &inv::test::byMode);
  m.def("unknown(Tensor t) -> Tensor", &inv::test::twice);
  m.def("trusted(Tensor t) -> Tensor", &inv::test::twice);
}
