#include "Progress.h"

#include <cstdio>

#include <unistd.h>

namespace inv::train {

using Clock = std::chrono::steady_clock;

Progress::Progress(std::string title, int64_t total, bool force)
    : title_(std::move(title)), total_(total),
      enabled_(force || isatty(STDERR_FILENO) == 1), start_(Clock::now()) {}

Progress::~Progress() { clear(); }

void Progress::advance(const std::string& note) {
  ++done_;
  const auto now = Clock::now();
  if (!enabled_ ||
      (done_ < total_ && now - drawn_ < std::chrono::milliseconds(80)))
    return;
  drawn_ = now;
  constexpr int64_t kWidth = 28;
  const int64_t filled = total_ ? kWidth * done_ / total_ : kWidth;
  std::string bar;
  for (int64_t i = 0; i < kWidth; ++i)
    bar += i < filled ? "\u2588" : "\u2591";
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = elapsed / static_cast<double>(done_) *
                      static_cast<double>(total_ - done_);
  std::fprintf(stderr, "\r\033[K%s %s %3d %%  %s  %.0f s left", title_.c_str(),
               bar.c_str(), static_cast<int>(100 * done_ / total_),
               note.c_str(), left);
  std::fflush(stderr);
}

void Progress::clear() {
  if (enabled_)
    std::fputs("\r\033[K", stderr);
}

} // namespace inv::train
