#include "sluice/guest/wire/messages.h"

#include <algorithm>

#include "sluice/base/core/check.h"
#include "sluice/guest/wire/fields.h"

namespace sluice::guest::wire {
namespace {

constexpr uint32_t kMagic = 0x43494c53;  // "SLIC"
constexpr size_t kLinkId = 16;
constexpr size_t kFirstPart = kMaxPayload - 5;  // behind verb and size

bool flag(Reader& in) {
  const uint8_t value = in.u8();
  if (value > 1) in.fail("a flag is neither 0 nor 1");
  return value == 1;
}
void put_flag(Writer& out, bool value) {
  out.u8(value ? 1 : 0);
}

// What both hellos begin with. A version that differs is told from garbage.
Result<void> check_hello(Reader& in, uint16_t& version) {
  if (in.u32() != kMagic) in.fail("it is not a Sluice guest's");
  version = in.u16();
  if (in.ok() && version != kVersion) {
    return Error(ErrorCode::kProtocol, "guest link: the peer speaks version " +
                                           std::to_string(version) + ", this side version " +
                                           std::to_string(kVersion));
  }
  return {};
}

// Reads the fields with `read(Reader&, T&)` and judges them.
template <class T, class Fields>
Result<T> decode_fields(std::string_view name, ByteView bytes, Fields read) {
  Reader in(bytes);
  T value;
  read(in, value);
  SLUICE_TRY_VOID(in.finish(name));
  return value;
}

template <class T>
Bytes encode_path_and_user(const T& value) {
  Writer out;
  out.string(value.path);
  out.string(value.user);
  return out.take();
}

template <class T>
void read_path_and_user(Reader& in, T& value) {
  value.path = in.text(kMaxPath);
  value.user = in.text(kMaxUser);
}

template <class T>
Bytes encode_path_user_mode(const T& value) {
  Writer out;
  out.string(value.path);
  out.string(value.user);
  out.u32(value.mode);
  return out.take();
}

template <class T>
void read_path_user_mode(Reader& in, T& value) {
  read_path_and_user(in, value);
  value.mode = in.u32();
  // No set-user-id, set-group-id or sticky bit is ever made on request.
  if (value.mode > 0777) in.fail("a mode has more than permission bits");
}

}  // namespace

Bytes HostHello::encode() const {
  Writer out;
  out.u32(kMagic);
  out.u16(version);
  out.u32(lease_ms);
  out.u64(deadline_ms);
  put_flag(out, single_user);
  out.u64(open_files);
  return out.take();
}
Result<HostHello> HostHello::decode(ByteView bytes) {
  Reader in(bytes);
  HostHello hello;
  SLUICE_TRY_VOID(check_hello(in, hello.version));
  hello.lease_ms = in.u32();
  hello.deadline_ms = in.u64();
  hello.single_user = flag(in);
  hello.open_files = in.u64();
  SLUICE_TRY_VOID(in.finish("hello of the host"));
  return hello;
}

Bytes GuestHello::encode() const {
  Writer out;
  out.u32(kMagic);
  out.u16(version);
  put_flag(out, owns_pid_namespace);
  out.u32(uid);
  return out.take();
}
Result<GuestHello> GuestHello::decode(ByteView bytes) {
  Reader in(bytes);
  GuestHello hello;
  SLUICE_TRY_VOID(check_hello(in, hello.version));
  hello.owns_pid_namespace = flag(in);
  hello.uid = in.u32();
  SLUICE_TRY_VOID(in.finish("hello of the guest"));
  return hello;
}

Bytes Resume::encode() const {
  Writer out;
  out.string(link);
  out.u64(received);
  return out.take();
}
Result<Resume> Resume::decode(ByteView bytes) {
  return decode_fields<Resume>("resume", bytes, [](Reader& in, Resume& value) {
    value.link = in.string(kLinkId);
    if (value.link.size() != kLinkId) in.fail("its link id is too short");
    value.received = in.u64();
  });
}

Bytes Exec::encode() const {
  Writer out;
  out.strings(argv);
  out.strings(env);
  out.string(cwd);
  out.string(user);
  out.u64(timeout_ms);
  out.u64(output_cap);
  out.u32(err_stream);
  put_flag(out, takes_input);
  out.u8(shell_prefix);
  return out.take();
}
Result<Exec> Exec::decode(ByteView bytes) {
  return decode_fields<Exec>("exec", bytes, [](Reader& in, Exec& value) {
    value.argv = in.texts(kMaxArguments, kMaxArgument);
    value.env = in.texts(kMaxArguments, kMaxArgument);
    value.cwd = in.text(kMaxPath);
    value.user = in.text(kMaxUser);
    value.timeout_ms = in.u64();
    value.output_cap = in.u64();
    value.err_stream = in.u32();
    value.takes_input = flag(in);
    value.shell_prefix = in.u8();
    if (value.argv.empty()) in.fail("its argv is empty");
    if (value.shell_prefix > value.argv.size()) in.fail("its prefix is longer than its argv");
  });
}

Bytes Started::encode() const {
  Writer out;
  out.u32(pid);
  return out.take();
}
Result<Started> Started::decode(ByteView bytes) {
  return decode_fields<Started>("reply to exec", bytes,
                                [](Reader& in, Started& value) { value.pid = in.u32(); });
}

Bytes Signal::encode() const {
  Writer out;
  out.u32(job);
  out.u8(number);
  return out.take();
}
Result<Signal> Signal::decode(ByteView bytes) {
  return decode_fields<Signal>("signal", bytes, [](Reader& in, Signal& value) {
    value.job = in.u32();
    value.number = in.u8();
    if (value.number < 1 || value.number > 64) in.fail("no such signal");
  });
}

Bytes KillTree::encode() const {
  Writer out;
  out.u32(job);
  return out.take();
}
Result<KillTree> KillTree::decode(ByteView bytes) {
  return decode_fields<KillTree>("kill_tree", bytes,
                                 [](Reader& in, KillTree& value) { value.job = in.u32(); });
}

Result<KillAll> KillAll::decode(ByteView bytes) {
  return decode_fields<KillAll>("kill_all", bytes, [](Reader&, KillAll&) {});
}

Bytes Read::encode() const {
  Writer out;
  out.string(path);
  out.string(user);
  out.u64(max);
  return out.take();
}
Result<Read> Read::decode(ByteView bytes) {
  return decode_fields<Read>("read", bytes, [](Reader& in, Read& value) {
    read_path_and_user(in, value);
    value.max = in.u64();
  });
}

Bytes Write::encode() const {
  return encode_path_user_mode(*this);
}
Result<Write> Write::decode(ByteView bytes) {
  return decode_fields<Write>("write", bytes, read_path_user_mode<Write>);
}

Bytes Stat::encode() const {
  return encode_path_and_user(*this);
}
Result<Stat> Stat::decode(ByteView bytes) {
  return decode_fields<Stat>("stat", bytes, read_path_and_user<Stat>);
}

Bytes List::encode() const {
  Writer out;
  out.string(path);
  out.string(user);
  out.u32(depth);
  out.u64(max);
  return out.take();
}
Result<List> List::decode(ByteView bytes) {
  return decode_fields<List>("list", bytes, [](Reader& in, List& value) {
    read_path_and_user(in, value);
    value.depth = in.u32();
    value.max = in.u64();
  });
}

Bytes ResetDirectory::encode() const {
  return encode_path_user_mode(*this);
}
Result<ResetDirectory> ResetDirectory::decode(ByteView bytes) {
  return decode_fields<ResetDirectory>("reset_directory", bytes,
                                       read_path_user_mode<ResetDirectory>);
}

Bytes GiveTree::encode() const {
  return encode_path_and_user(*this);
}
Result<GiveTree> GiveTree::decode(ByteView bytes) {
  return decode_fields<GiveTree>("give_tree", bytes, read_path_and_user<GiveTree>);
}

Bytes Count::encode() const {
  Writer out;
  out.u64(value);
  return out.take();
}
Result<Count> Count::decode(ByteView bytes) {
  return decode_fields<Count>("count", bytes,
                              [](Reader& in, Count& count) { count.value = in.u64(); });
}

Bytes Pack::encode() const {
  Writer out;
  out.u64(max);
  return out.take();
}
Result<Pack> Pack::decode(ByteView bytes) {
  return decode_fields<Pack>("pack", bytes, [](Reader& in, Pack& pack) { pack.max = in.u64(); });
}

Result<Unpack> Unpack::decode(ByteView bytes) {
  return decode_fields<Unpack>("unpack", bytes, [](Reader&, Unpack&) {});
}

Bytes FileStat::encode() const {
  Writer out;
  out.string(path);
  out.u8(static_cast<uint8_t>(type));
  out.u64(size);
  out.u32(mode);
  out.u32(uid);
  out.u32(gid);
  return out.take();
}
Result<FileStat> FileStat::decode(ByteView bytes) {
  return decode_fields<FileStat>("file status", bytes, [](Reader& in, FileStat& value) {
    value.path = in.text(kMaxPath);
    value.type = in.enumerator(Type::kOther);
    value.size = in.u64();
    value.mode = in.u32();
    value.uid = in.u32();
    value.gid = in.u32();
    if (value.mode > 07777) in.fail("a mode has more than permission bits");
  });
}

Bytes Listen::encode() const {
  Writer out;
  out.u16(port);
  put_flag(out, pass_socket);
  return out.take();
}
Result<Listen> Listen::decode(ByteView bytes) {
  return decode_fields<Listen>("listen", bytes, [](Reader& in, Listen& value) {
    value.port = in.u16();
    value.pass_socket = flag(in);
  });
}

Bytes Listening::encode() const {
  Writer out;
  out.u16(port);
  put_flag(out, has_socket);
  return out.take();
}
Result<Listening> Listening::decode(ByteView bytes) {
  return decode_fields<Listening>("reply to listen", bytes, [](Reader& in, Listening& value) {
    value.port = in.u16();
    value.has_socket = flag(in);
  });
}

Bytes Accepted::encode() const {
  Writer out;
  out.u32(listener);
  out.u16(peer_port);
  return out.take();
}
Result<Accepted> Accepted::decode(ByteView bytes) {
  return decode_fields<Accepted>("accepted", bytes, [](Reader& in, Accepted& value) {
    value.listener = in.u32();
    value.peer_port = in.u16();
  });
}

Bytes Exit::encode() const {
  Writer out;
  out.u8(static_cast<uint8_t>(reason));
  out.u8(status);
  out.u8(signal);
  return out.take();
}
Result<Exit> Exit::decode(ByteView bytes) {
  return decode_fields<Exit>("exit", bytes, [](Reader& in, Exit& value) {
    value.reason = in.enumerator(Reason::kTimedOut);
    value.status = in.u8();
    value.signal = in.u8();
    if (value.reason == Reason::kExited ? value.signal != 0 : value.status != 0) {
      in.fail("it holds both a status and a signal");
    }
    if (value.reason == Reason::kSignaled && (value.signal < 1 || value.signal > 127)) {
      in.fail("no such signal");
    }
  });
}

Bytes End::encode() const {
  Writer out;
  put_flag(out, truncated);
  return out.take();
}
Result<End> End::decode(ByteView bytes) {
  return decode_fields<End>("end", bytes,
                            [](Reader& in, End& value) { value.truncated = flag(in); });
}

Bytes Close::encode() const {
  Writer out;
  out.u8(static_cast<uint8_t>(reason));
  return out.take();
}
Result<Close> Close::decode(ByteView bytes) {
  return decode_fields<Close>("close", bytes, [](Reader& in, Close& value) {
    value.reason = in.enumerator(Reason::kReset);
  });
}

Bytes Failure::encode() const {
  Writer out;
  out.u8(static_cast<uint8_t>(error.code));
  out.string(std::string_view(error.message).substr(0, kMaxMessage));
  return out.take();
}
Result<Failure> Failure::decode(ByteView bytes) {
  return decode_fields<Failure>("failure", bytes, [](Reader& in, Failure& value) {
    static_assert(static_cast<int>(ErrorCode::kInternal) == kErrorCodes - 1);
    const auto code = in.enumerator(ErrorCode::kInternal);
    value.error = Error(code, to_valid_utf8(in.view(kMaxMessage)), ErrorOrigin::kSandbox);
  });
}

Bytes encode_credit(uint32_t bytes) {
  Writer out;
  out.u32(bytes);
  return out.take();
}
Result<uint32_t> decode_credit(ByteView bytes) {
  return decode_fields<uint32_t>("credit", bytes,
                                 [](Reader& in, uint32_t& value) { value = in.u32(); });
}

Bytes encode_ack(uint64_t seq) {
  Writer out;
  out.u64(seq);
  return out.take();
}
Result<uint64_t> decode_ack(ByteView bytes) {
  return decode_fields<uint64_t>("acknowledgement", bytes,
                                 [](Reader& in, uint64_t& value) { value = in.u64(); });
}

Result<std::vector<Bytes>> split(const Request& request) {
  if (request.body.size() > kMaxRequest) {
    return Error(ErrorCode::kTooLarge,
                 "the request holds " + std::to_string(request.body.size()) +
                     " bytes of arguments and environment; at most " + std::to_string(kMaxRequest) +
                     " are possible: pass large input through stdin or a file");
  }
  Writer head;
  head.u8(static_cast<uint8_t>(request.verb));
  head.u32(static_cast<uint32_t>(request.body.size()));
  std::vector<Bytes> parts;
  parts.push_back(head.take().append(request.body, 0, kFirstPart));
  for (size_t at = kFirstPart; at < request.body.size(); at += kMaxPayload) {
    parts.push_back(request.body.substr(at, kMaxPayload));
  }
  return parts;
}

Result<std::optional<Request>> Assembler::open(ByteView payload) {
  CHECK(!busy());
  Reader in(payload.substr(0, 5));
  request_.verb = in.enumerator(Verb::kAccepted);
  missing_ = in.u32();
  if (in.ok() && missing_ > kMaxRequest) in.fail("its size is over the limit");
  auto read = in.finish("request");
  if (!read) {
    missing_ = 0;
    return std::move(read).error();
  }
  request_.body.clear();
  return take(payload.substr(5));
}

Result<std::optional<Request>> Assembler::more(ByteView payload) {
  if (!busy() || payload.empty()) {
    return Error(ErrorCode::kProtocol, "guest link: a part of a request without its beginning");
  }
  return take(payload);
}

Result<std::optional<Request>> Assembler::take(ByteView part) {
  if (part.size() > missing_) {
    return Error(ErrorCode::kProtocol, "guest link: a request is longer than it said");
  }
  request_.body.append(part);
  missing_ -= part.size();
  if (missing_ > 0) return std::optional<Request>();
  return std::optional<Request>(std::move(request_));
}

Bytes encode_list_entry(const FileStat& entry) {
  const Bytes body = entry.encode();
  Writer out;
  out.u16(static_cast<uint16_t>(body.size()));
  return out.take().append(body);
}

Result<void> ListDecoder::feed(ByteView piece) {
  buffer_.append(piece);
  ByteView rest = buffer_;
  while (rest.size() >= 2) {
    Reader in(rest.substr(0, 2));
    const size_t size = in.u16();
    if (rest.size() < 2 + size) break;
    if (entries_.size() == max_entries_) {
      return Error(ErrorCode::kProtocol, "guest link: a list has more entries than asked for");
    }
    SLUICE_TRY(FileStat entry, FileStat::decode(rest.substr(2, size)));
    entries_.push_back(std::move(entry));
    rest.remove_prefix(2 + size);
  }
  buffer_.erase(0, buffer_.size() - rest.size());
  return {};
}

Result<std::vector<FileStat>> ListDecoder::finish() {
  if (!buffer_.empty()) {
    return Error(ErrorCode::kProtocol, "guest link: a list ends within an entry");
  }
  return std::move(entries_);
}

}  // namespace sluice::guest::wire
