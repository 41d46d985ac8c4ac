#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {
namespace {

using guest::wire::Reader;
using guest::wire::Writer;

constexpr size_t kMaxSteps = 1024;
constexpr size_t kMaxPath = 4096;
constexpr size_t kMaxText = 64 * 1024;
constexpr size_t kMaxFilter = 64 * 1024;

void put(Writer& out, bool value) {
  out.u8(value ? 1 : 0);
}
bool flag(Reader& in) {
  const uint8_t value = in.u8();
  if (value > 1) in.fail("a flag is neither 0 nor 1");
  return value == 1;
}

void put(Writer& out, const std::vector<Step>& steps) {
  out.u32(static_cast<uint32_t>(steps.size()));
  for (const Step& step : steps) {
    out.u8(static_cast<uint8_t>(step.kind));
    out.u8(step.flags);
    out.u32(step.mode);
    out.u32(step.uid);
    out.u32(step.gid);
    out.string(step.path);
    out.string(step.text);
  }
}
std::vector<Step> steps(Reader& in) {
  const uint32_t count = in.u32();
  if (count > kMaxSteps) in.fail("too many steps");
  std::vector<Step> all;
  for (uint32_t i = 0; in.ok() && i < count; ++i) {
    Step step;
    step.kind = in.enumerator(Step::Kind::kTerminals);
    step.flags = in.u8();
    step.mode = in.u32();
    step.uid = in.u32();
    step.gid = in.u32();
    step.path = in.text(kMaxPath);
    step.text = in.string(kMaxText);
    if (step.path.empty() || step.path.starts_with('/')) in.fail("a step's path is not relative");
    all.push_back(std::move(step));
  }
  return all;
}

void put(Writer& out, const std::vector<IdMap>& maps) {
  out.u32(static_cast<uint32_t>(maps.size()));
  for (const IdMap& map : maps) {
    out.u32(map.inside);
    out.u32(map.outside);
    out.u32(map.count);
  }
}
std::vector<IdMap> id_maps(Reader& in) {
  const uint32_t count = in.u32();
  if (count > 16) in.fail("too many id maps");
  std::vector<IdMap> all;
  for (uint32_t i = 0; in.ok() && i < count; ++i) {
    IdMap map;
    map.inside = in.u32();
    map.outside = in.u32();
    map.count = in.u32();
    // The rule that everything else rests on.
    if (map.outside == 0 || map.count == 0 || map.outside > UINT32_MAX - map.count) {
      in.fail("an id map holds host id 0, or no ids");
    }
    all.push_back(map);
  }
  return all;
}

template <class T, class Fields>
Result<T> decode_fields(const char* name, ByteView bytes, Fields read) {
  Reader in(bytes);
  T value;
  read(in, value);
  SLUICE_TRY_VOID(in.finish(name));
  return value;
}

}  // namespace

Bytes Setup::encode() const {
  Writer out;
  out.string(seccomp);
  put(out, root);
  out.u8(static_cast<uint8_t>(mapping));
  out.u32(range_first);
  out.u32(range_size);
  out.u32(static_cast<uint32_t>(taken.size()));
  for (const auto& [first, count] : taken) {
    out.u32(first);
    out.u32(count);
  }
  put(out, uids);
  put(out, gids);
  out.u32(ready);
  return out.take();
}
Result<Setup> Setup::decode(ByteView bytes) {
  return decode_fields<Setup>("setup", bytes, [](Reader& in, Setup& value) {
    value.seccomp = in.string(kMaxFilter);
    if (value.seccomp.empty() || value.seccomp.size() % 8 != 0) in.fail("no filter");
    value.root = steps(in);
    value.mapping = in.enumerator(Mapping::kOwn);
    value.range_first = in.u32();
    value.range_size = in.u32();
    const uint32_t taken = in.u32();
    if (taken > 4096) in.fail("too many ranges");
    for (uint32_t i = 0; in.ok() && i < taken; ++i) {
      const uint32_t first = in.u32();
      const uint32_t count = in.u32();
      value.taken.emplace_back(first, count);
    }
    value.uids = id_maps(in);
    value.gids = id_maps(in);
    value.ready = in.u32();
    if (value.ready > 64) in.fail("too many to be ready");
    if (value.mapping == Mapping::kDirect) {
      if (value.range_first == 0 || value.range_size < 2000) in.fail("no range of ids");
    } else if (value.uids.empty() || value.gids.empty()) {
      in.fail("no id maps");
    }
  });
}

Bytes SetupDone::encode() const {
  Writer out;
  out.strings(cgroups);
  put(out, memory);
  put(out, pids);
  put(out, cpu);
  put(out, swap);
  out.string(cgroup_problem);
  return out.take();
}
Result<SetupDone> SetupDone::decode(ByteView bytes) {
  return decode_fields<SetupDone>("answer to setup", bytes, [](Reader& in, SetupDone& value) {
    value.cgroups = in.texts(16, kMaxPath);
    value.memory = flag(in);
    value.pids = flag(in);
    value.cpu = flag(in);
    value.swap = flag(in);
    value.cgroup_problem = in.text(kMaxText);
  });
}

Bytes Create::encode() const {
  Writer out;
  out.u64(id);
  out.string(name);
  put(out, extra);
  out.string(kept_home);
  out.u64(disk_bytes);
  out.u64(disk_inodes);
  out.u64(limits.memory_bytes);
  out.u64(limits.pids);
  out.u64(limits.cpu_millis);
  out.u64(limits.swap_bytes);
  put(out, own_network);
  put(out, whole_root);
  out.string(image_root);
  return out.take();
}
Result<Create> Create::decode(ByteView bytes) {
  return decode_fields<Create>("create", bytes, [](Reader& in, Create& value) {
    value.id = in.u64();
    value.name = in.text(128);
    if (value.name.empty() || value.name.find('/') != std::string::npos || value.name[0] == '.') {
      in.fail("its name is no name of a directory");
    }
    value.extra = steps(in);
    value.kept_home = in.text(kMaxPath);
    value.disk_bytes = in.u64();
    value.disk_inodes = in.u64();
    value.limits.memory_bytes = in.u64();
    value.limits.pids = in.u64();
    value.limits.cpu_millis = in.u64();
    value.limits.swap_bytes = in.u64();
    value.own_network = flag(in);
    value.whole_root = flag(in);
    value.image_root = in.text(kMaxPath);
  });
}

Bytes Created::encode() const {
  Writer out;
  out.u64(id);
  put(out, ok);
  out.u8(static_cast<uint8_t>(error.code));
  out.string(error.message);
  out.u32(static_cast<uint32_t>(pid));
  out.string(oom_file);
  return out.take();
}
Result<Created> Created::decode(ByteView bytes) {
  return decode_fields<Created>("answer to create", bytes, [](Reader& in, Created& value) {
    value.id = in.u64();
    value.ok = flag(in);
    const auto code = in.enumerator(ErrorCode::kInternal);
    value.error = Error(code, in.text(kMaxText), ErrorOrigin::kSandbox);
    value.pid = static_cast<int32_t>(in.u32());
    value.oom_file = in.text(kMaxPath);
  });
}

bool is_no_overlay(const Error& error) {
  return error.message.find(kNoOverlay) != std::string::npos;
}

Bytes Destroy::encode() const {
  Writer out;
  out.u64(id);
  return out.take();
}
Result<Destroy> Destroy::decode(ByteView bytes) {
  return decode_fields<Destroy>("destroy", bytes,
                                [](Reader& in, Destroy& value) { value.id = in.u64(); });
}

Bytes Gone::encode() const {
  Writer out;
  out.u64(id);
  out.u32(static_cast<uint32_t>(wait_status));
  return out.take();
}
Result<Gone> Gone::decode(ByteView bytes) {
  return decode_fields<Gone>("gone", bytes, [](Reader& in, Gone& value) {
    value.id = in.u64();
    value.wait_status = static_cast<int32_t>(in.u32());
  });
}

Bytes Message::encode() const {
  Writer out;
  out.u8(static_cast<uint8_t>(kind));
  return out.take() + body;
}
Result<Message> Message::decode(ByteView bytes) {
  Reader in(bytes.substr(0, 1));
  Message message;
  message.kind = in.enumerator(Kind::kFailed);
  SLUICE_TRY_VOID(in.finish("message of the sandbox helper"));
  message.body = Bytes(bytes.substr(1));
  return message;
}

}  // namespace sluice::sandbox::local
