#include "Replay.h"

#include "Slot.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/util/hash.h>

#include <algorithm>

namespace inv {

// ------------------------------------------------------------- random numbers

struct RngState::Cpu {
  at::mt19937_data_pod engine;
  // The spare halves of normally distributed pairs belong to the state.
  std::optional<float> nextFloat;
  std::optional<double> nextDouble;

  bool operator==(const Cpu& o) const {
    return engine.seed_ == o.engine.seed_ && engine.left_ == o.engine.left_ &&
           engine.next_ == o.engine.next_ && engine.state_ == o.engine.state_ &&
           nextFloat == o.nextFloat && nextDouble == o.nextDouble;
  }
};

namespace {

at::CPUGeneratorImpl* cpuGenerator() {
  return at::get_generator_or_default<at::CPUGeneratorImpl>(
      std::nullopt, at::detail::getDefaultCPUGenerator());
}

} // namespace

RngState RngState::now(const std::vector<c10::Device>& devices) {
  RngState state;
  {
    auto* generator = cpuGenerator();
    std::lock_guard lock(generator->mutex_);
    state.cpu_ = std::make_shared<const Cpu>(
        Cpu{generator->engine().data(), generator->next_float_normal_sample(),
            generator->next_double_normal_sample()});
  }
  for (c10::Device device : devices) {
    const at::Generator& g = at::globalContext().defaultGenerator(device);
    std::lock_guard lock(g.unsafeGetGeneratorImpl()->mutex_);
    state.accelerators_.push_back({device, g.current_seed(), g.get_offset()});
  }
  return state;
}

void RngState::restore() const {
  {
    auto* generator = cpuGenerator();
    std::lock_guard lock(generator->mutex_);
    at::mt19937 engine;
    engine.set_data(cpu_->engine);
    generator->set_engine(engine);
    generator->set_next_float_normal_sample(cpu_->nextFloat);
    generator->set_next_double_normal_sample(cpu_->nextDouble);
  }
  for (const Accelerator& a : accelerators_) {
    at::Generator g = at::globalContext().defaultGenerator(a.device);
    std::lock_guard lock(g.mutex());
    g.set_current_seed(a.seed);
    g.set_offset(a.offset);
  }
}

bool RngState::operator==(const RngState& other) const {
  return *cpu_ == *other.cpu_ && accelerators_ == other.accelerators_;
}

std::vector<c10::Device> RngState::devices() const {
  std::vector<c10::Device> result;
  for (const Accelerator& a : accelerators_)
    result.push_back(a.device);
  return result;
}

size_t RngState::fingerprint() const {
  const auto& e = cpu_->engine;
  size_t hash =
      c10::get_hash(e.seed_, e.left_, e.next_, cpu_->nextFloat.value_or(0),
                    cpu_->nextDouble.value_or(0));
  for (uint32_t word : e.state_)
    hash = c10::hash_combine(hash, word);
  for (const Accelerator& a : accelerators_)
    hash = c10::hash_combine(hash, c10::get_hash(a.seed, a.offset));
  return hash;
}

std::recursive_mutex& drawMutex() {
  static auto* mutex = new std::recursive_mutex;
  return *mutex;
}

// ------------------------------------------------------------------ autocast

AutocastState AutocastState::now(const std::vector<c10::Device>& devices) {
  AutocastState state;
  const auto add = [&](c10::DeviceType type) {
    state.all.push_back({type, at::autocast::is_autocast_enabled(type),
                         at::autocast::get_autocast_dtype(type)});
  };
  add(c10::DeviceType::CPU);
  for (c10::Device device : devices)
    if (std::none_of(state.all.begin(), state.all.end(),
                     [&](const One& o) { return o.type == device.type(); }))
      add(device.type());
  state.cache = at::autocast::is_autocast_cache_enabled();
  return state;
}

void AutocastState::set() const {
  for (const One& o : all) {
    at::autocast::set_autocast_enabled(o.type, o.enabled);
    at::autocast::set_autocast_dtype(o.type, o.dtype);
  }
  at::autocast::set_autocast_cache_enabled(cache);
}

bool AutocastState::anyEnabled() const {
  return std::any_of(all.begin(), all.end(),
                     [](const One& o) { return o.enabled; });
}

// ------------------------------------------------------------------ settings

namespace {

struct Switch {
  bool (at::Context::*get)() const;
  void (at::Context::*set)(bool);
};

constexpr std::array<Switch, Settings::kNumSwitches> kSwitches = {{
    {&at::Context::userEnabledCuDNN, &at::Context::setUserEnabledCuDNN},
    {&at::Context::benchmarkCuDNN, &at::Context::setBenchmarkCuDNN},
    {&at::Context::deterministicCuDNN, &at::Context::setDeterministicCuDNN},
    {&at::Context::userEnabledMkldnn, &at::Context::setUserEnabledMkldnn},
    {&at::Context::deterministicMkldnn, &at::Context::setDeterministicMkldnn},
    {&at::Context::userEnabledNNPACK, &at::Context::setUserEnabledNNPACK},
    {&at::Context::userEnabledFlashSDP, &at::Context::setSDPUseFlash},
    {&at::Context::userEnabledMemEfficientSDP,
     &at::Context::setSDPUseMemEfficient},
    {&at::Context::userEnabledMathSDP, &at::Context::setSDPUseMath},
    {&at::Context::userEnabledCuDNNSDP, &at::Context::setSDPUseCuDNN},
    {&at::Context::allowFP16BF16ReductionMathSDP,
     &at::Context::setAllowFP16BF16ReductionMathSDP},
    {&at::Context::allowFP16AccumulationCuBLAS,
     &at::Context::setAllowFP16AccumulationCuBLAS},
    {&at::Context::allowFP16ReductionCPU,
     &at::Context::setAllowFP16ReductionCPU},
}};

} // namespace

Settings Settings::now() {
  const auto& context = at::globalContext();
  Settings settings{c10::get_default_dtype_as_scalartype(),
                    context.deterministicAlgorithms(),
                    context.deterministicAlgorithmsWarnOnly(),
                    {},
                    {}};
  for (size_t i = 0; i < kSwitches.size(); i++)
    settings.switches.at(i) = (context.*kSwitches.at(i).get)();
  size_t i = 0;
  for (auto backend : {at::Float32Backend::CUDA, at::Float32Backend::MKLDNN})
    for (auto op : {at::Float32Op::ALL, at::Float32Op::CONV, at::Float32Op::RNN,
                    at::Float32Op::MATMUL})
      settings.precisions.at(i++) = context.float32Precision(backend, op);
  return settings;
}

void Settings::set() const {
  auto& context = at::globalContext();
  c10::set_default_dtype(c10::scalarTypeToTypeMeta(defaultDtype));
  context.setDeterministicAlgorithms(deterministic, warnOnly);
  for (size_t i = 0; i < kSwitches.size(); i++)
    if ((context.*kSwitches.at(i).get)() != switches.at(i))
      (context.*kSwitches.at(i).set)(switches.at(i));
}

// -------------------------------------------------------------------- guards

EvaluationGuard::EvaluationGuard(bool keepHooks)
    : cacheBefore_(at::autocast::is_autocast_cache_enabled()) {
  at::autocast::set_autocast_cache_enabled(false);
  const auto& hooks = at::SavedTensorDefaultHooks::get_tls_state();
  if (keepHooks || hooks.stack.empty())
    return;
  hooksBefore_ = hooks;
  at::SavedTensorDefaultHooks::set_tls_state({});
}

EvaluationGuard::~EvaluationGuard() {
  at::autocast::set_autocast_cache_enabled(cacheBefore_);
  if (hooksBefore_)
    at::SavedTensorDefaultHooks::set_tls_state(*hooksBefore_);
}

ReplayGuard::ReplayGuard(const Record& record, bool keepHooks)
    : record_(record), evaluation_(keepHooks) {
  const Replay& replay = record.replay;
  std::vector<c10::Device> types;
  for (const auto& o : replay.autocast.all)
    if (o.type != c10::DeviceType::CPU)
      types.emplace_back(o.type);
  autocastBefore_ = AutocastState::now(types);
  if (const Settings present = Settings::now(); present != replay.settings) {
    TORCH_CHECK(present.precisions == replay.settings.precisions,
                describe(record.kind, *record.step),
                ": the precision of float32 products was changed between "
                "forward and backward, so the states cannot be rebuilt.");
    settingsBefore_ = present;
  }
  const auto& draw = replay.conditioner ? replay.conditioner : replay.function;
  if (draw) {
    drawing_ = std::unique_lock(drawMutex());
    rngBefore_ = RngState::now(draw->before.devices());
  }
  AutocastState state = replay.autocast;
  state.cache = false;
  state.set();
  if (settingsBefore_)
    replay.settings.set();
}

ReplayGuard::~ReplayGuard() {
  autocastBefore_.set();
  if (settingsBefore_)
    settingsBefore_->set();
  if (rngBefore_)
    rngBefore_->restore();
}

void ReplayGuard::begin(const std::optional<Draw>& draw) {
  if (draw)
    draw->before.restore();
}

void ReplayGuard::end(const std::optional<Draw>& draw) const {
  if (!draw)
    return;
  const RngState now = RngState::now(draw->before.devices());
  TORCH_CHECK(now.fingerprint() == draw->after,
              describe(record_.kind, *record_.step),
              ": its random numbers cannot be drawn again: another thread drew "
              "from the same generator while this step ran, in forward or now "
              "in backward. Let that thread use a generator of its own, or "
              "set the step's mode to 'store'.");
}

void ReplayGuard::beforeConditioner() const {
  begin(record_.replay.conditioner);
}
void ReplayGuard::afterConditioner() const { end(record_.replay.conditioner); }
void ReplayGuard::beforeFunction() const { begin(record_.replay.function); }
void ReplayGuard::afterFunction() const { end(record_.replay.function); }

std::vector<c10::Device> generatorsFor(std::vector<c10::Device> devices,
                                       bool anywhere) {
  if (!anywhere || !at::globalContext().hasCUDA())
    return devices;
  const auto& hooks = at::detail::getCUDAHooks();
  for (int i = 0; i < hooks.getNumGPUs(); i++) {
    const auto index = static_cast<c10::DeviceIndex>(i);
    const c10::Device device(c10::DeviceType::CUDA, index);
    if (hooks.hasPrimaryContext(index) &&
        std::find(devices.begin(), devices.end(), device) == devices.end())
      devices.push_back(device);
  }
  return devices;
}

std::vector<c10::Device>
acceleratorsOf(std::initializer_list<const std::vector<at::Tensor>*> lists) {
  std::vector<c10::Device> result;
  for (const auto* list : lists)
    for (const at::Tensor& t : *list)
      if (t.defined() && t.is_cuda() &&
          std::find(result.begin(), result.end(), t.device()) == result.end())
        result.push_back(t.device());
  return result;
}

} // namespace inv
