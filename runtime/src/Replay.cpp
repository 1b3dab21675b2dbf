#include "Replay.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

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

// -------------------------------------------------------------------- replay

ReplayGuard::ReplayGuard(const Replay& replay) : replay_(replay) {
  std::vector<c10::Device> types;
  for (const auto& o : replay.autocast.all)
    if (o.type != c10::DeviceType::CPU)
      types.emplace_back(o.type);
  autocastBefore_ = AutocastState::now(types);
  if (replay.atConditioner)
    rngBefore_ = RngState::now(replay.atConditioner->devices());
  AutocastState state = replay.autocast;
  // Casts of our detached captures must not outlive the replay in the cache.
  state.cache = false;
  state.set();
}

ReplayGuard::~ReplayGuard() {
  autocastBefore_.set();
  if (rngBefore_)
    rngBefore_->restore();
}

void ReplayGuard::beforeConditioner() const {
  if (replay_.atConditioner)
    replay_.atConditioner->restore();
}

void ReplayGuard::beforeFunction() const {
  if (replay_.atFunction)
    replay_.atFunction->restore();
}

std::vector<c10::Device>
acceleratorsOf(std::initializer_list<const std::vector<at::Tensor>*> lists) {
  std::vector<c10::Device> result;
  for (const auto* list : lists)
    for (const at::Tensor& t : *list)
      if (t.defined() && !t.is_cpu() && t.is_cuda() &&
          std::find(result.begin(), result.end(), t.device()) == result.end())
        result.push_back(t.device());
  return result;
}

} // namespace inv
