#include "sluice/net/sse.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice::net {
namespace {

struct Seen {
  std::string event, data, id;
  bool operator==(const Seen&) const = default;
};
void PrintTo(const Seen& seen, std::ostream* out) {
  *out << "{" << seen.event << "|" << seen.data << "|" << seen.id << "}";
}

std::vector<Seen> take_all(SseReader& reader) {
  std::vector<Seen> out;
  while (auto event = reader.next()) out.push_back({event->event, event->data, event->id});
  return out;
}

std::vector<Seen> read(ByteView stream, size_t max = 1 << 20) {
  SseReader reader(max);
  EXPECT_TRUE(reader.feed(stream));
  return take_all(reader);
}

TEST(AppendSseTest, WritesFrames) {
  Bytes out;
  append_sse(out, "", "{}");
  append_sse(out, "delta", "a\nb\r\nc\rd");
  append_sse(out, "", "");
  EXPECT_EQ(out,
            "data: {}\n\n"
            "event: delta\ndata: a\ndata: b\ndata: c\ndata: d\n\n"
            "data: \n\n");
}

TEST(AppendSseTest, WhatIsWrittenIsReadBack) {
  for (const std::string_view data :
       {"", " ", "x", "\n", "a\n", "\na", "a\n\nb", ": no comment", "data: no field"}) {
    Bytes out;
    append_sse(out, "e", data);
    EXPECT_EQ(read(out), (std::vector<Seen>{{"e", std::string(data), ""}})) << data;
  }
}

TEST(SseReaderTest, FollowsTheStandardsExamples) {
  EXPECT_EQ(read("data: YHOO\ndata: +2\ndata: 10\n\n"),
            (std::vector<Seen>{{"message", "YHOO\n+2\n10", ""}}));
  EXPECT_EQ(read(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
                 "data:  third event\n"),
            (std::vector<Seen>{{"message", "first event", "1"}, {"message", "second event", ""}}));
  EXPECT_EQ(read("data\n\ndata\ndata\n\ndata:"),
            (std::vector<Seen>{{"message", "", ""}, {"message", "\n", ""}}));
  EXPECT_EQ(read("data:test\n\ndata: test\n\n"),
            (std::vector<Seen>{{"message", "test", ""}, {"message", "test", ""}}));
}

TEST(SseReaderTest, EveryLineBreakAndTheByteOrderMark) {
  EXPECT_EQ(read("\xEF\xBB\xBF"
                 "data: a\r\n\r\ndata: b\r\rdata: c\n\n"),
            (std::vector<Seen>{{"message", "a", ""}, {"message", "b", ""}, {"message", "c", ""}}));
  // Only at the start of the stream.
  EXPECT_EQ(read("data: a\n\n\xEF\xBB\xBF"
                 "data: b\n\n"),
            (std::vector<Seen>{{"message", "a", ""}}));
}

TEST(SseReaderTest, EventNamesLastForOneEventIdsLonger) {
  EXPECT_EQ(read("event: x\nid: 7\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\n"),
            (std::vector<Seen>{{"x", "1", "7"}, {"message", "2", "7"}, {"message", "3", "7"}}));
  EXPECT_EQ(read(ByteView("id: a\0b\ndata: 1\n\n", 17)), (std::vector<Seen>{{"message", "1", ""}}));
}

TEST(SseReaderTest, PiecesMakeNoDifference) {
  const std::string stream =
      "\xEF\xBB\xBF: hi\r\n\r\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata: 3\r\rid: 9\ndata: 4\n\n";
  const auto whole = read(stream);
  ASSERT_EQ(whole.size(), 3u);
  for (size_t step = 1; step < stream.size(); ++step) {
    SseReader reader(1 << 20);
    std::vector<Seen> seen;
    for (size_t at = 0; at < stream.size(); at += step) {
      ASSERT_TRUE(reader.feed(ByteView(stream).substr(at, step)));
      for (auto& event : take_all(reader)) seen.push_back(std::move(event));
    }
    EXPECT_EQ(seen, whole) << "pieces of " << step;
  }
}

TEST(SseReaderTest, OneEventIsLimitedTheStreamIsNot) {
  SseReader reader(20);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(reader.feed("data: 0123456789\n\n"));
  EXPECT_EQ(take_all(reader).size(), 100u);

  // One long line.
  ASSERT_TRUE(reader.feed("data: 0123456789"));
  auto fed = reader.feed("01234");
  ASSERT_FALSE(fed);
  EXPECT_EQ(fed.error().code, ErrorCode::kTooLarge);
  EXPECT_FALSE(reader.feed("\n\n")) << "the reader stays broken";

  // Many lines of one event.
  SseReader lines(20);
  ASSERT_TRUE(lines.feed("data: 012345\n"));
  ASSERT_TRUE(lines.feed("data: 012345\n"));
  EXPECT_FALSE(lines.feed("data: 012345\n"));
}

}  // namespace
}  // namespace sluice::net
