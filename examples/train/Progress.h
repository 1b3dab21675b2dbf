// A progress bar on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace inv::train {

class Progress {
public:
  /// Draws on a terminal, or where `force` is set; otherwise it is silent.
  Progress(std::string title, int64_t total, bool force);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `note` stands behind the bar: the loss, say.
  void advance(const std::string& note);
  /// Removes the bar, so that a line can be printed; advance() draws it again.
  void clear();

private:
  std::string title_;
  int64_t total_, done_ = 0;
  bool enabled_;
  std::chrono::steady_clock::time_point start_, drawn_;
};

} // namespace inv::train
