#include "ptx/parser/text_cursor.h"

#include <gtest/gtest.h>

#include "ptx/error.h"

namespace ptx {
namespace {

TEST(TextCursor, ReadsEverySpellingOfANumber) {
  TextCursor cursor("17 -5 0x1F 017 0b101 7U 0xFFU 0f3F800000 0d3FF0000000000000 1.5 -0f3F800000 18446744073709551615");
  EXPECT_EQ(cursor.number().bits, 17U);
  EXPECT_EQ(cursor.integer(), -5);
  EXPECT_EQ(cursor.number().bits, 31U);
  EXPECT_EQ(cursor.number().bits, 15U);
  EXPECT_EQ(cursor.number().bits, 5U);
  EXPECT_EQ(cursor.number().bits, 7U);
  EXPECT_EQ(cursor.number().bits, 255U);
  const Literal narrow = cursor.number();
  EXPECT_EQ(narrow.kind, Literal::Kind::kFloat32);
  EXPECT_EQ(narrow.bits, 0x3F800000U);
  const Literal wide = cursor.number();
  EXPECT_EQ(wide.kind, Literal::Kind::kFloat64);
  EXPECT_EQ(wide.bits, 0x3FF0000000000000U);
  const Literal decimal = cursor.number();
  EXPECT_EQ(decimal.kind, Literal::Kind::kDecimal);
  EXPECT_EQ(decimal.bits, 0x3FF8000000000000U);
  EXPECT_EQ(cursor.number().bits, 0xBF800000U);
  EXPECT_EQ(cursor.number().bits, ~std::uint64_t{0});
  EXPECT_TRUE(cursor.at_end());
}

TEST(TextCursor, PassesOverCommentsAndCountsLines) {
  TextCursor cursor("// one\n  /* two\n three */ word.a.b::c next");
  EXPECT_EQ(cursor.word(), "word");
  EXPECT_EQ(cursor.line(), 3);
  EXPECT_EQ(cursor.modifier(), "a");
  EXPECT_EQ(cursor.modifier(), "b::c");
  EXPECT_EQ(cursor.modifier(), "");
  EXPECT_EQ(cursor.word(), "next");
}

TEST(TextCursor, SaysWhatItWantedAndWhere) {
  TextCursor cursor("\n 12x");
  try {
    cursor.number();
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "PTX line 2: expected the end of a number, found 'x'");
  }
}

}  // namespace
}  // namespace ptx
