#include "passes/support/Cursor.h"

#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <cctype>

namespace inv::opt {

bool Cursor::atEnd() { return peek() == 0; }

char Cursor::peek() {
  while (at_ < text_.size() &&
         std::isspace(static_cast<unsigned char>(text_[at_])))
    ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

bool Cursor::eat(std::string_view token) {
  peek();
  if (text_.substr(at_, token.size()) != token)
    return false;
  at_ += token.size();
  return true;
}

void Cursor::expect(std::string_view token) {
  if (!eat(token))
    fail("expected '" + std::string(token) + "'");
}

std::string Cursor::word(const char* what) {
  peek();
  size_t begin = at_;
  while (at_ < text_.size()) {
    char c = text_[at_];
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '.' &&
        c != '-' && !(c == '+' && at_ > begin && text_[at_ - 1] == 'e'))
      break;
    ++at_;
  }
  if (begin == at_)
    fail(std::string("expected ") + what);
  return std::string(text_.substr(begin, at_ - begin));
}

std::string Cursor::string() {
  expect("\"");
  std::string out;
  while (at_ < text_.size() && text_[at_] != '"') {
    char c = text_[at_++];
    if (c != '\\') {
      out += c;
      continue;
    }
    char escape = at_ < text_.size() ? text_[at_++] : '\0';
    if (escape == 'n') {
      out += '\n';
    } else if (escape == 't') {
      out += '\t';
    } else if (escape == 'x' && at_ + 2 <= text_.size() &&
               std::isxdigit(static_cast<unsigned char>(text_[at_])) &&
               std::isxdigit(static_cast<unsigned char>(text_[at_ + 1]))) {
      out += static_cast<char>(
          std::stoi(std::string(text_.substr(at_, 2)), nullptr, 16));
      at_ += 2;
    } else if (escape == '"' || escape == '\\') {
      out += escape;
    } else {
      fail("unknown escape in a string");
    }
  }
  if (at_ >= text_.size())
    fail("a string without its closing quote");
  ++at_;
  return out;
}

std::string Cursor::until(std::string_view stops) {
  peek();
  size_t begin = at_;
  int depth = 0;
  bool inString = false;
  for (; at_ < text_.size(); ++at_) {
    char c = text_[at_];
    if (inString) {
      if (c == '\\')
        ++at_;
      inString = c != '"';
      continue;
    }
    if (depth == 0 && stops.find(c) != std::string_view::npos)
      break;
    if (c == '"')
      inString = true;
    depth += c == '(' || c == '[' || c == '{';
    depth -= c == ')' || c == ']' || c == '}';
  }
  at_ = std::min(at_, text_.size());
  return std::string(trim(text_.substr(begin, at_ - begin)));
}

void Cursor::expectEnd() {
  if (!atEnd())
    fail("unexpected '" + std::string(text_.substr(at_)) + "'");
}

void Cursor::fail(const std::string& message) const {
  throw Error(ExitCode::BadInput, where_ + ": " + message + " in '" +
                                      std::string(trim(text_)) + "'");
}

} // namespace inv::opt
