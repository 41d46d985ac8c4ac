#include <gtest/gtest.h>

#include <random>

#include "sluice/guest/wire/credit.h"
#include "sluice/guest/wire/fields.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/guest/wire/messages.h"
#include "sluice/guest/wire/sequence.h"

namespace sluice::guest::wire {
namespace {

Bytes frame(FrameType type, uint32_t stream, uint64_t seq, ByteView payload) {
  Bytes out;
  append_frame(out, type, stream, seq, payload);
  return out;
}

struct Seen {
  FrameType type;
  uint32_t stream;
  uint64_t seq;
  Bytes payload;
  bool operator==(const Seen&) const = default;
};

// All frames of `bytes`, fed in pieces of `step`.
Result<std::vector<Seen>> decode_all(ByteView bytes, size_t step) {
  Decoder decoder;
  std::vector<Seen> seen;
  while (!bytes.empty()) {
    bytes.remove_prefix(decoder.feed(bytes.substr(0, step)));
    for (;;) {
      SLUICE_TRY(auto next, decoder.next());
      if (!next) break;
      seen.push_back({next->type, next->stream, next->seq, Bytes(next->payload)});
    }
  }
  return seen;
}

TEST(FrameTest, ComesOutAsItWentInHoweverItIsCut) {
  const std::vector<Seen> sent = {
      {FrameType::kHello, 0, 0, "hello"},
      {FrameType::kOpen, 1, 1, Bytes(kMaxPayload, 'x')},
      {FrameType::kData, 4'000'000'000u, 2, std::string("\0\xff", 2)},
      {FrameType::kEnd, 7, uint64_t{1} << 40, ""},
  };
  Bytes wire;
  for (const Seen& f : sent) append_frame(wire, f.type, f.stream, f.seq, f.payload);
  for (const size_t step : {size_t{1}, size_t{3}, kHeaderBytes, size_t{70'000}, wire.size()}) {
    const auto seen = decode_all(wire, step);
    ASSERT_TRUE(seen) << step;
    EXPECT_EQ(*seen, sent) << step;
  }
}

TEST(FrameTest, SpaceIsNeverEmptyWhileFramesAreTaken) {
  Decoder decoder;
  const Bytes big = frame(FrameType::kData, 1, 1, Bytes(kMaxPayload, 'x'));
  // A partial frame at every offset of the buffer.
  for (int i = 0; i < 20; ++i) {
    ByteView rest = big;
    int frames = 0;
    while (!rest.empty()) {
      ASSERT_FALSE(decoder.space().empty());
      rest.remove_prefix(decoder.feed(rest.substr(0, 10'007)));
      for (;;) {
        const auto next = decoder.next();
        ASSERT_TRUE(next);
        if (!*next) break;
        EXPECT_EQ((*next)->payload.size(), kMaxPayload);
        ++frames;
      }
    }
    EXPECT_EQ(frames, 1);
  }
}

TEST(FrameTest, RefusesWhatNoPeerWouldSend) {
  const Bytes bad[] = {
      frame(FrameType::kData, 0, 1, "x"),                        // stream data on the link
      frame(FrameType::kHello, 1, 0, "x"),                       // link frame on a stream
      frame(FrameType::kData, 1, 0, "x"),                        // not numbered
      frame(FrameType::kKeepAlive, 0, 5, ""),                    // numbered
      frame(static_cast<FrameType>(0), 0, 0, ""),                // unknown types
      frame(static_cast<FrameType>(5), 0, 0, ""),                //
      frame(static_cast<FrameType>(15), 0, 0, ""),               //
      frame(static_cast<FrameType>(28), 1, 1, ""),               //
      frame(static_cast<FrameType>(255), 1, 1, ""),              //
      std::string("\x01\x00\x01\x00\x13", 5) + Bytes(12, '\1'),  // 64 KiB and one byte
      std::string("\xff\xff\xff\xff\x13", 5) + Bytes(12, '\1'),  // 4 GiB
  };
  for (const Bytes& wire : bad) {
    const auto seen = decode_all(wire, wire.size());
    ASSERT_FALSE(seen);
    EXPECT_EQ(seen.error().code, ErrorCode::kProtocol);
  }
}

TEST(FrameTest, JudgesALengthBeforeItsPayloadIsThere) {
  Decoder decoder;
  decoder.feed(std::string("\x01\x00\x01\x00\x13", 5) + Bytes(12, '\1'));
  EXPECT_FALSE(decoder.next());
}

TEST(FieldsTest, BelieveNoNumberOfThePeer) {
  Writer out;
  out.numbers(0xffffffffu);  // a count of strings
  const Bytes count = out.take();
  Reader counted(count);
  std::vector<std::string> strings;
  counted.texts(strings, 0xffffffff, 10);
  EXPECT_TRUE(strings.empty());
  EXPECT_FALSE(counted.finish("test"));

  out.string("four", 4);
  const Bytes four = out.take();
  Reader longer(ByteView(four).substr(0, four.size() - 1));
  std::string string = "before";
  uint64_t number = 7;
  longer.string(string, 100);
  longer.numbers(number);
  EXPECT_EQ(string, "");
  EXPECT_EQ(number, 0u);  // the first error sticks
  EXPECT_FALSE(longer.finish("test"));

  Reader limited(four);
  limited.string(string, 3);
  EXPECT_EQ(string, "");
  EXPECT_FALSE(limited.finish("test"));

  Reader exact(four);
  exact.string(string, 4);
  EXPECT_EQ(string, "four");
  EXPECT_TRUE(exact.finish("test"));

  out.string(std::string("a\0b", 3), 3);
  const Bytes with_nul = out.take();
  Reader text(with_nul);
  text.text(string, 10);
  EXPECT_EQ(string, "");
  EXPECT_FALSE(text.finish("test"));
}

TEST(CreditTest, ASenderCannotExceedItsWindowNorAReceiverInflateIt) {
  SendCredit send;
  ReceiveCredit receive;
  EXPECT_EQ(send.available(), kWindow);
  EXPECT_FALSE(send.grant(1));  // nothing was spent
  send.spend(kWindow);
  EXPECT_EQ(send.available(), 0u);
  ASSERT_TRUE(receive.received(kWindow));
  EXPECT_FALSE(receive.received(1));
  EXPECT_EQ(receive.consumed(kWindow / 2 - 1), 0u);  // not worth a frame yet
  const uint32_t grant = receive.consumed(1);
  EXPECT_EQ(grant, kWindow / 2);
  ASSERT_TRUE(send.grant(grant));
  EXPECT_EQ(send.available(), kWindow / 2);
  EXPECT_FALSE(send.grant(0));
  EXPECT_FALSE(send.grant(kWindow / 2 + 1));
  ASSERT_TRUE(receive.received(kWindow / 2));
  EXPECT_FALSE(receive.received(1));
}

TEST(SequenceTest, IncomingTellsNewFromRepeatedAndFindsGaps) {
  Incoming in;
  EXPECT_EQ(*in.accept({FrameType::kData, 1, 1, "a"}), Incoming::Verdict::kNew);
  EXPECT_EQ(*in.accept({FrameType::kData, 3, 2, "b"}), Incoming::Verdict::kNew);
  EXPECT_EQ(*in.accept({FrameType::kData, 1, 1, "a"}), Incoming::Verdict::kDuplicate);
  EXPECT_EQ(*in.accept({FrameType::kKeepAlive, 0, 0, ""}), Incoming::Verdict::kNew);
  EXPECT_FALSE(in.accept({FrameType::kData, 1, 4, "d"}));
  EXPECT_EQ(in.received(), 2u);
}

TEST(SequenceTest, OutgoingRefusesAcknowledgementsOfWhatItNeverSent) {
  Outgoing out(Outgoing::Keep::kUntilAcknowledged);
  Bytes wire;
  for (int i = 0; i < 3; ++i) out.append(wire, FrameType::kData, 1, "x");
  EXPECT_FALSE(out.acknowledged(4));
  ASSERT_TRUE(out.acknowledged(2));
  EXPECT_FALSE(out.acknowledged(1));
  EXPECT_EQ(out.kept_bytes(), kHeaderBytes + 1);
  EXPECT_FALSE(out.resend_after(4));
  EXPECT_EQ(out.resend_after(1).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(out.resend_after(2)->size(), kHeaderBytes + 1);
}

TEST(SequenceTest, ACarrierThatCannotBreakKeepsNothing) {
  Outgoing out;
  Bytes wire;
  for (int i = 0; i < 1000; ++i) out.append(wire, FrameType::kData, 1, Bytes(1000, 'x'));
  EXPECT_EQ(out.kept_bytes(), 0u);
  EXPECT_FALSE(out.full());
}

TEST(SequenceTest, OutgoingSaysWhenTooMuchIsKept) {
  Outgoing out(Outgoing::Keep::kUntilAcknowledged);
  Bytes wire;
  while (!out.full()) {
    wire.clear();
    out.append(wire, FrameType::kData, 1, Bytes(kMaxPayload, 'x'));
  }
  EXPECT_LE(out.kept_bytes(), Outgoing::kMaxKept + kMaxFrame);
  ASSERT_TRUE(out.acknowledged(out.last()));
  EXPECT_FALSE(out.full());
}

// A carrier that breaks at random, losing what is under way in both directions: after any number of
// breaks every frame has arrived once and in order.
TEST(SequenceTest, NothingIsLostOrRepeatedOverALinkThatBreaks) {
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    Outgoing out(Outgoing::Keep::kUntilAcknowledged);
    Incoming in;
    std::vector<int> arrived;
    Decoder decoder;
    Bytes under_way;
    int next = 0;
    auto deliver = [&](size_t n) {
      ByteView bytes = ByteView(under_way).substr(0, n);
      while (!bytes.empty()) {
        bytes.remove_prefix(decoder.feed(bytes));
        for (;;) {
          auto frame = decoder.next();
          ASSERT_TRUE(frame);
          if (!*frame) break;
          auto verdict = in.accept(**frame);
          ASSERT_TRUE(verdict);
          if (*verdict == Incoming::Verdict::kDuplicate) continue;
          arrived.push_back(std::stoi(Bytes((*frame)->payload)));
        }
      }
      under_way.erase(0, n);
    };
    while (arrived.size() < 500) {
      switch (random() % 8) {
        case 0: {  // the carrier breaks somewhere; the new one begins with what is missing
          deliver(random() % (under_way.size() + 1));
          decoder = Decoder();
          auto missing = out.resend_after(in.received());
          ASSERT_TRUE(missing);
          under_way = std::move(*missing);
          break;
        }
        case 1:
          if (const uint64_t seq = in.acknowledgement_due()) ASSERT_TRUE(out.acknowledged(seq));
          break;
        case 2:
        case 3:
          deliver(random() % (under_way.size() + 1));
          break;
        default:
          out.append(under_way, FrameType::kData, 1, std::to_string(next++));
      }
    }
    for (size_t i = 0; i < arrived.size(); ++i) ASSERT_EQ(arrived[i], static_cast<int>(i));
  }
}

template <class T>
void expect_round_trip(const T& value, const char* name) {
  const Bytes bytes = encode(value);
  const auto back = decode<T>(bytes);
  ASSERT_TRUE(back) << name << ": " << back.error().message;
  EXPECT_EQ(encode(*back), bytes) << name;
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(decode<T>(ByteView(bytes).substr(0, n))) << name << " cut at " << n;
  }
  EXPECT_FALSE(decode<T>(bytes + "x")) << name << " with a byte left over";
}

TEST(MessagesTest, RoundTripAndFailOnEveryCut) {
  Exec exec;
  exec.argv = {"sh", "-c", "echo \xff"};
  exec.env = {"A=1", "B="};
  exec.cwd = "/home/user";
  exec.user = "1000";
  exec.timeout_ms = 5000;
  exec.output_cap = 1 << 20;
  exec.err_stream = 3;
  exec.takes_input = true;
  exec.shell_prefix = 2;
  expect_round_trip(exec, "Exec");
  expect_round_trip(HostHello{kVersion, 10'000, 60'000, true, 1024}, "HostHello");
  expect_round_trip(GuestHello{kVersion, true, 0}, "GuestHello");
  expect_round_trip(Resume{Bytes(16, 'r'), 42}, "Resume");
  expect_round_trip(Started{17}, "Started");
  expect_round_trip(Signal{1, 9}, "Signal");
  expect_round_trip(KillTree{1}, "KillTree");
  expect_round_trip(KillAll{}, "KillAll");
  expect_round_trip(Read{"/a", "1000", 1 << 30}, "Read");
  expect_round_trip(Write{"/a", "user", 0755}, "Write");
  expect_round_trip(Stat{"/a", "0"}, "Stat");
  expect_round_trip(List{"/", "0", 3, 1000}, "List");
  expect_round_trip(ResetDirectory{"/v", "1001", 0700}, "ResetDirectory");
  expect_round_trip(GiveTree{"/w", "1000"}, "GiveTree");
  expect_round_trip(KillUser{"1000"}, "KillUser");
  expect_round_trip(
      HandOver{"/h", "/h/w", "/.v", "/h/v", "1001", "1000", {"/tmp"}, "/bin:/usr/bin"}, "HandOver");
  expect_round_trip(HandedOver{"/bin/bash", "/bin", {"/h/w was gone"}}, "HandedOver");
  expect_round_trip(Pack{1 << 20}, "Pack");
  expect_round_trip(TakeWork{{"/w", "/x"}, {"*.pyc"}, 1 << 30, 1000, 5}, "TakeWork");
  expect_round_trip(WorkTaken{1, 2, 3, {"/a"}}, "WorkTaken");
  expect_round_trip(PutWork{{"/w"}, {"/w/tests/**"}, "1001"}, "PutWork");
  expect_round_trip(MakeWay{"/w/t", "/w"}, "MakeWay");
  expect_round_trip(Count{5}, "Count");
  expect_round_trip(FileStat{"f", FileStat::Type::kSymlink, 12, 0777, 1, 2}, "FileStat");
  expect_round_trip(Listen{8080, true}, "Listen");
  expect_round_trip(Listening{8080, false}, "Listening");
  expect_round_trip(Accepted{5, 40'000}, "Accepted");
  expect_round_trip(Exit{Exit::Reason::kSignaled, 0, 9}, "Exit");
  expect_round_trip(End{true}, "End");
  expect_round_trip(Close{Close::Reason::kReset}, "Close");
  expect_round_trip(Failure{Error(ErrorCode::kNotFound, "no /x")}, "Failure");
}

// A guest may be of another build than its engine: what is on the wire is a contract.
TEST(MessagesTest, TheirBytesAreThese) {
  auto hex = [](const auto& message) {
    return to_hex(encode(message));
  };
  EXPECT_EQ(hex(HostHello{1, 10'000, 0x0102030405060708, true, 16'384}),
            "534c49430100102700000807060504030201010040000000000000");
  EXPECT_EQ(hex(GuestHello{1, true, 1000}), "534c4943010001e8030000");
  EXPECT_EQ(hex(Resume{"0123456789abcdef", 77}),
            "10000000303132333435363738396162636465664d00000000000000");
  EXPECT_EQ(
      hex(Exec{{"sh", "-c", ""}, {"A=b"}, "/x", "1000", 5, 6, 9, true, 2}),
      "03000000020000007368020000002d63000000000100000003000000413d62020000002f780400000031303030"
      "05000000000000000600000000000000090000000102");
  EXPECT_EQ(hex(Started{42}), "2a000000");
  EXPECT_EQ(hex(Signal{7, 15}), "070000000f");
  EXPECT_EQ(hex(KillTree{7}), "07000000");
  EXPECT_EQ(hex(KillAll{}), "");
  EXPECT_EQ(hex(Read{"/f", "u", 300}), "020000002f6601000000752c01000000000000");
  EXPECT_EQ(hex(Write{"/f", "u", 0644}), "020000002f660100000075a4010000");
  EXPECT_EQ(hex(Stat{"/f", "u"}), "020000002f660100000075");
  EXPECT_EQ(hex(List{"/f", "u", 2, 3}), "020000002f660100000075020000000300000000000000");
  EXPECT_EQ(hex(ResetDirectory{"/f", "u", 0700}), "020000002f660100000075c0010000");
  EXPECT_EQ(hex(GiveTree{"/f", "u"}), "020000002f660100000075");
  EXPECT_EQ(hex(KillUser{"u"}), "0100000075");
  EXPECT_EQ(
      hex(HandOver{"/h", "/w", "/p", "/l", "u", "f", {"/t"}, "/b"}),
      "020000002f68020000002f77020000002f70020000002f6c0100000075010000006601000000020000002f74"
      "020000002f62");
  EXPECT_EQ(hex(HandedOver{"/s", "/p", {"n"}}), "020000002f73020000002f7001000000010000006e");
  EXPECT_EQ(hex(Count{300}), "2c01000000000000");
  EXPECT_EQ(hex(Pack{300}), "2c01000000000000");
  EXPECT_EQ(hex(Unpack{}), "");
  EXPECT_EQ(
      hex(TakeWork{{"/w"}, {"x", ""}, 1, 2, 3}),
      "01000000020000002f7702000000010000007800000000010000000000000002000000000000000300000000"
      "000000");
  EXPECT_EQ(hex(WorkTaken{1, 2, 3, {}}),
            "01000000000000000200000000000000030000000000000000000000");
  EXPECT_EQ(hex(PutWork{{"/w"}, {}, "u"}), "01000000020000002f77000000000100000075");
  EXPECT_EQ(hex(MakeWay{"/f", ""}), "020000002f6600000000");
  EXPECT_EQ(hex(FileStat{"/f", FileStat::Type::kSymlink, 300, 0777, 1, 2}),
            "020000002f66022c01000000000000ff0100000100000002000000");
  EXPECT_EQ(hex(Listen{8080, true}), "901f01");
  EXPECT_EQ(hex(Listening{8080, true}), "901f01");
  EXPECT_EQ(hex(Accepted{5, 40'000}), "05000000409c");
  EXPECT_EQ(hex(Exit{Exit::Reason::kSignaled, 0, 9}), "010009");
  EXPECT_EQ(hex(End{true}), "01");
  EXPECT_EQ(hex(Close{Close::Reason::kReset}), "01");
  EXPECT_EQ(hex(Failure{Error(ErrorCode::kNotFound, "gone")}), "0104000000676f6e65");
  EXPECT_EQ(hex(Credit{65'536}), "00000100");
  EXPECT_EQ(hex(Ack{99}), "6300000000000000");
  EXPECT_EQ(to_hex(split({Verb::kRead, "abc"})->front()), "0403000000616263");
  FileStat entry;
  entry.path = "f";
  EXPECT_EQ(to_hex(encode_list_entry(entry)),
            "1a000100000066000000000000000000000000000000000000000000");
}

TEST(MessagesTest, RefuseValuesThatNobodyMeans) {
  EXPECT_FALSE(decode<Exec>(encode(Exec{})));  // no argv
  Exec prefix;
  prefix.argv = {"sh"};
  prefix.shell_prefix = 2;
  EXPECT_FALSE(decode<Exec>(encode(prefix)));
  EXPECT_FALSE(decode<Signal>(encode(Signal{1, 0})));
  EXPECT_FALSE(decode<Signal>(encode(Signal{1, 65})));
  EXPECT_FALSE(decode<Write>(encode(Write{"/a", "0", 04755})));
  EXPECT_FALSE(decode<ResetDirectory>(encode(ResetDirectory{"/a", "0", 01777})));
  EXPECT_FALSE(decode<Read>(encode(Read{std::string("/a\0b", 4), "0", 1})));
  EXPECT_FALSE(decode<Read>(encode(Read{Bytes(kMaxPath + 1, 'a'), "0", 1})));
  EXPECT_FALSE(decode<Exit>(encode(Exit{Exit::Reason::kExited, 1, 9})));
  EXPECT_FALSE(decode<Exit>(encode(Exit{Exit::Reason::kSignaled, 0, 0})));
  EXPECT_FALSE(decode<Exit>(std::string("\7\0\0", 3)));
  EXPECT_FALSE(decode<End>("\2"));
  EXPECT_FALSE(decode<Failure>(std::string("\x7f\0\0\0\0", 5)));
}

TEST(MessagesTest, AnotherVersionIsToldFromGarbage) {
  HostHello newer;
  newer.version = 9;
  const auto differs = decode<HostHello>(encode(newer));
  ASSERT_FALSE(differs);
  EXPECT_NE(differs.error().message.find("version 9"), std::string::npos);
  EXPECT_FALSE(decode<HostHello>("GET / HTTP/1.1\r\n\r\n"));
}

TEST(MessagesTest, AFailureKeepsItsCodeAndALimitedMessage) {
  const Failure sent{Error(ErrorCode::kNotFound, Bytes(10'000, 'm') + "\xff")};
  const auto got = decode<Failure>(encode(sent));
  ASSERT_TRUE(got);
  EXPECT_EQ(got->error.code, ErrorCode::kNotFound);
  EXPECT_EQ(got->error.message.size(), kMaxMessage);
  const auto odd = decode<Failure>(encode(Failure{Error(ErrorCode::kIo, "\xff")}));
  ASSERT_TRUE(odd);
  EXPECT_EQ(odd->error.message, "\xEF\xBF\xBD");
}

TEST(RequestTest, GoesInPiecesAndComesOutWhole) {
  for (const size_t size : {size_t{0}, size_t{10}, kMaxPayload - 5, kMaxPayload, kMaxRequest}) {
    const Request sent{Verb::kExec, Bytes(size, 'q')};
    const auto parts = split(sent);
    ASSERT_TRUE(parts);
    Assembler assembler;
    std::optional<Request> got;
    for (size_t i = 0; i < parts->size(); ++i) {
      ASSERT_LE((*parts)[i].size(), kMaxPayload);
      ASSERT_FALSE(got);
      auto taken = i == 0 ? assembler.open((*parts)[i]) : assembler.more((*parts)[i]);
      ASSERT_TRUE(taken);
      got = std::move(*taken);
      EXPECT_EQ(assembler.busy(), !got.has_value());
    }
    ASSERT_TRUE(got);
    EXPECT_EQ(got->body, sent.body);
  }
  EXPECT_EQ(split({Verb::kExec, Bytes(kMaxRequest + 1, 'q')}).error().code, ErrorCode::kTooLarge);
}

TEST(RequestTest, RefusesPiecesThatDoNotFit) {
  Assembler assembler;
  EXPECT_FALSE(assembler.more("x"));                                   // without a beginning
  EXPECT_FALSE(assembler.open(""));                                    // too short
  EXPECT_FALSE(assembler.open(std::string("\0\xff\xff\xff\xff", 5)));  // 4 GiB
  EXPECT_FALSE(assembler.open(std::string("\x63\0\0\0\0", 5)));        // unknown verb
  EXPECT_FALSE(assembler.busy());
  EXPECT_FALSE(assembler.open(std::string("\0\1\0\0\0xx", 7)));  // longer than it said
}

TEST(ListTest, EntriesArriveHoweverTheyAreCut) {
  Bytes wire;
  for (int i = 0; i < 100; ++i) {
    FileStat entry;
    entry.path = "file" + std::to_string(i);
    wire += encode_list_entry(entry);
  }
  for (const size_t step : {size_t{1}, size_t{7}, wire.size()}) {
    ListDecoder decoder(100);
    for (size_t at = 0; at < wire.size(); at += step) {
      ASSERT_TRUE(decoder.feed(ByteView(wire).substr(at, step)));
    }
    const auto entries = decoder.finish();
    ASSERT_TRUE(entries);
    ASSERT_EQ(entries->size(), 100u);
    EXPECT_EQ(entries->back().path, "file99");
  }
  ListDecoder few(99);
  EXPECT_FALSE(few.feed(wire));
  ListDecoder half(100);
  ASSERT_TRUE(half.feed(ByteView(wire).substr(0, wire.size() - 1)));
  EXPECT_FALSE(half.finish());
}

}  // namespace
}  // namespace sluice::guest::wire
