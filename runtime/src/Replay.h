// What else an evaluation depends on: random numbers, autocast, settings.
#pragma once

#include <ATen/Context.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace inv {

struct Record;

/// States of the default generators that a step may draw from: the CPU's, and
/// those of the accelerators that its tensors live on (as seed and offset;
/// reading them does not synchronise).
class RngState {
public:
  /// The present states. `devices`: accelerators, each once.
  static RngState now(const std::vector<c10::Device>& devices);
  /// Makes these the present states.
  void restore() const;
  bool operator==(const RngState& other) const;
  std::vector<c10::Device> devices() const;
  /// Equal for equal states, and hardly ever for others.
  size_t fingerprint() const;

private:
  struct Cpu;
  struct Accelerator {
    c10::Device device;
    uint64_t seed, offset;
    bool operator==(const Accelerator&) const = default;
  };
  std::shared_ptr<const Cpu> cpu_;
  std::vector<Accelerator> accelerators_;
};

/// Autocast of the device types that matter, as thread-local state.
struct AutocastState {
  struct One {
    c10::DeviceType type;
    bool enabled;
    at::ScalarType dtype;
  };
  std::vector<One> all;
  bool cache = false;

  static AutocastState now(const std::vector<c10::Device>& devices);
  void set() const;
  bool anyEnabled() const;
};

/// Settings of the process that change what an operator computes.
struct Settings {
  at::ScalarType defaultDtype;
  bool deterministic, warnOnly;
  /// Which libraries and kernels may be used; people switch them around a
  /// forward alone (`with sdpa_kernel(...)`).
  static constexpr size_t kNumSwitches = 13;
  std::array<bool, kNumSwitches> switches;
  /// How float32 products are computed, by backend and operation. Not set
  /// again: LibTorch has two ways to say it, and forbids to mix them.
  std::array<at::Float32Precision, 8> precisions;

  static Settings now();
  /// All but the precisions.
  void set() const;
  bool operator==(const Settings&) const = default;
};

/// The numbers that one method of a step drew: the generators' states before,
/// and a fingerprint of those after.
struct Draw {
  RngState before;
  size_t after;
};

/// What a forward evaluation saw, to be set up again around its replay.
struct Replay {
  AutocastState autocast;
  Settings settings;
  /// Only of a method that drew numbers, of a step that preserves them.
  std::optional<Draw> conditioner, function;
};

/// Held while a step draws from the default generators, in forward and in
/// replays: two steps that take turns would get each other's numbers.
/// Recursive, since a step's methods may contain steps.
std::recursive_mutex& drawMutex();

/// While alive, what autograd saves on this thread passes no hooks of the
/// user's: it lives as long as one evaluation. And autocast keeps no copies of
/// the detached weights.
class EvaluationGuard {
public:
  explicit EvaluationGuard(bool keepHooks = false);
  ~EvaluationGuard();
  EvaluationGuard(const EvaluationGuard&) = delete;
  EvaluationGuard& operator=(const EvaluationGuard&) = delete;

private:
  bool cacheBefore_;
  std::optional<at::impl::SavedTensorDefaultHooksTLS> hooksBefore_;
};

/// Sets the replay's surroundings up on this thread, and puts back what was
/// there.
class ReplayGuard {
public:
  explicit ReplayGuard(const Record& record, bool keepHooks = false);
  ~ReplayGuard();
  ReplayGuard(const ReplayGuard&) = delete;
  ReplayGuard& operator=(const ReplayGuard&) = delete;

  /// To be called around each run of the conditioner, and around each run of
  /// the function. Throws where the numbers cannot have been the same, since
  /// code outside of steps drew some at the same time on another thread.
  void beforeConditioner() const;
  void afterConditioner() const;
  void beforeFunction() const;
  void afterFunction() const;

private:
  static void begin(const std::optional<Draw>& draw);
  void end(const std::optional<Draw>& draw) const;

  const Record& record_;
  EvaluationGuard evaluation_;
  AutocastState autocastBefore_;
  std::optional<Settings> settingsBefore_;
  std::unique_lock<std::recursive_mutex> drawing_;
  std::optional<RngState> rngBefore_;
};

/// Those whose generators a step on `devices` may draw from: with `anywhere`,
/// since its code may move tensors, all that are in use.
std::vector<c10::Device> generatorsFor(std::vector<c10::Device> devices,
                                       bool anywhere);

/// The accelerators among the devices of these tensors, each once.
std::vector<c10::Device>
acceleratorsOf(std::initializer_list<const std::vector<at::Tensor>*> lists);

} // namespace inv
