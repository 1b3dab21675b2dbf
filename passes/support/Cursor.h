// A reading position in one line of text, for the small grammars of the IR
// preamble and of --input. Every failure names the place.
#pragma once

#include <string>
#include <string_view>

namespace inv::opt {

class Cursor {
public:
  /// `where` opens every error message ("net.ir:3"); `text` must outlive the
  /// cursor.
  Cursor(std::string_view text, std::string where)
      : text_(text), where_(std::move(where)) {}

  /// Whether nothing but white space is left.
  bool atEnd();
  /// The next character that is no space, or 0 at the end.
  char peek();
  /// Consumes `token` if it comes next (white space skipped).
  bool eat(std::string_view token);
  /// Like eat, and an error otherwise.
  void expect(std::string_view token);
  /// Letters, digits and the characters `_ . -`; an error if none comes next.
  std::string word(const char* what);
  /// A double-quoted string with the escapes that quote() writes.
  std::string string();
  /// Everything up to the first of `stops` outside brackets and quotes.
  std::string until(std::string_view stops);
  /// An error if anything is left.
  void expectEnd();
  [[noreturn]] void fail(const std::string& message) const;
  const std::string& where() const { return where_; }

private:
  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
};

} // namespace inv::opt
