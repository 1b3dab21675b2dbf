#include "passes/support/AtomicFile.h"
#include "passes/support/Cursor.h"
#include "passes/support/Error.h"
#include "passes/support/Sha256.h"
#include "passes/support/StringUtil.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

namespace inv::opt {
namespace {

namespace fs = std::filesystem;

std::string sha256(const std::string& text) {
  Sha256 digest;
  digest.update(text.data(), text.size());
  return digest.hex();
}

// The examples of FIPS 180-2, appendix B.
TEST(Sha256, PublishedExamples) {
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223"
                           "b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesDoNotMatter) {
  std::string text(300, 'x');
  Sha256 digest;
  for (size_t at = 0, size = 1; at < text.size(); at += size, size += 7)
    digest.update(text.data() + at, std::min(size, text.size() - at));
  EXPECT_EQ(digest.hex(), sha256(text));
}

TEST(StringUtil, NearMatchesAreNear) {
  std::vector<std::string> names = {"canonicalize", "form-steps"};
  EXPECT_EQ(nearMatches("canonicalise", names).at(0), "canonicalize");
  EXPECT_EQ(nearMatches("steps", names).at(0), "form-steps");
  EXPECT_TRUE(nearMatches("xyzzy", names).empty());
}

TEST(Cursor, StringsComeBack) {
  std::string text = "a \"b\" \\ \n\t\x01 end";
  std::string literal = quote(text);
  Cursor cursor(literal, "test");
  EXPECT_EQ(cursor.string(), text);
  EXPECT_TRUE(cursor.atEnd());
}

/// A folder of its own for each test.
class AtomicFileTest : public ::testing::Test {
protected:
  void SetUp() override {
    std::string name =
        (fs::temp_directory_path() / "atomic-file-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = (folder_ / "file").string();
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string content() {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t entries() {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_),
                                             fs::directory_iterator()));
  }

  fs::path folder_;
  std::string path_;
};

TEST_F(AtomicFileTest, CommitReplacesAndKeepsPermissions) {
  std::ofstream(path_) << "old";
  fs::permissions(path_, fs::perms::owner_read | fs::perms::owner_write);
  AtomicFile file(path_);
  file.write("new", 3);
  EXPECT_EQ(content(), "old");
  file.commit();
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(entries(), 1U);
  EXPECT_EQ(fs::status(path_).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(AtomicFileTest, WithoutCommitNothingHappened) {
  std::ofstream(path_) << "old";
  {
    AtomicFile file(path_);
    file.write("new", 3);
  }
  EXPECT_EQ(content(), "old");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFileTest, FolderThatIsNotThere) {
  EXPECT_THROW(AtomicFile((folder_ / "none" / "file").string()), Error);
  EXPECT_THROW(AtomicFile(folder_.string()), Error);
}

} // namespace
} // namespace inv::opt
