// Small helpers on strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace inv::opt {

/// `text` without white space at its ends.
std::string_view trim(std::string_view text);
/// The parts between separators; an empty text has none. Parts are trimmed.
std::vector<std::string> splitList(std::string_view text, char separator);
/// Number of single-character edits between two words.
size_t editDistance(std::string_view a, std::string_view b);
/// The candidates that `word` may have been meant for, best first.
std::vector<std::string> nearMatches(std::string_view word,
                                     const std::vector<std::string>& among);
/// In double quotes, with \n, \t, \", \\ and \xNN escapes.
std::string quote(std::string_view text);
/// "1,234,567".
std::string withSeparators(int64_t number);
/// "1.5 MiB", "640 B".
std::string humanBytes(int64_t bytes);

} // namespace inv::opt
