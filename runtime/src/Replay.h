// Random numbers and autocast: what else an evaluation depends on.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

namespace inv {

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

/// What a forward evaluation saw, to be set up again around its replay.
struct Replay {
  AutocastState autocast;
  /// Before the conditioner, and before the function; only if the evaluation
  /// drew numbers, and its step preserves them.
  std::optional<RngState> atConditioner, atFunction;
};

/// Sets the replay's surroundings up on this thread, and puts back what was
/// there.
class ReplayGuard {
public:
  explicit ReplayGuard(const Replay& replay);
  ~ReplayGuard();
  ReplayGuard(const ReplayGuard&) = delete;
  ReplayGuard& operator=(const ReplayGuard&) = delete;

  /// To be called before each run of the conditioner, and before each run of
  /// the function or its inverse.
  void beforeConditioner() const;
  void beforeFunction() const;

private:
  const Replay& replay_;
  AutocastState autocastBefore_;
  std::optional<RngState> rngBefore_;
};

/// The accelerators among the devices of these tensors, each once.
std::vector<c10::Device>
acceleratorsOf(std::initializer_list<const std::vector<at::Tensor>*> lists);

} // namespace inv
