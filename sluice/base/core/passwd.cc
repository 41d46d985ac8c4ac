#include "sluice/base/core/passwd.h"

#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"

namespace sluice {
namespace {

// Splits off what is before the next `separator`.
std::string_view take(std::string_view& rest, char separator) {
  const size_t at = rest.find(separator);
  const std::string_view head = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + 1);
  return head;
}

std::optional<uint32_t> parse_id(std::string_view text) {
  const auto value = parse_decimal(text);
  // (uid_t)-1 means "leave as it is" to the kernel, never a user.
  if (!value || *value >= UINT32_MAX) return std::nullopt;
  return static_cast<uint32_t>(*value);
}

// The first line of `passwd` for which `matches(name, uid)` holds.
template <class Matches>
std::optional<User> find_line(std::string_view passwd, Matches matches) {
  while (!passwd.empty()) {
    std::string_view line = take(passwd, '\n');
    const std::string_view name = take(line, ':');
    take(line, ':');  // the password
    const auto uid = parse_id(take(line, ':'));
    const auto gid = parse_id(take(line, ':'));
    take(line, ':');  // the comment
    const std::string_view home = take(line, ':');
    if (name.empty() || !uid || !gid || !matches(name, *uid)) continue;
    return User{std::string(name), *uid, *gid, std::string(home.empty() ? "/" : home), {}};
  }
  return std::nullopt;
}

void add_groups(User& user, std::string_view group) {
  while (!group.empty()) {
    std::string_view line = take(group, '\n');
    take(line, ':');  // the group's name
    take(line, ':');  // its password
    const auto gid = parse_id(take(line, ':'));
    if (!gid || *gid == user.gid) continue;
    while (!line.empty()) {
      if (take(line, ',') != user.name) continue;
      user.groups.push_back(*gid);
      break;
    }
  }
}

}  // namespace

Result<User> find_user(std::string_view spec, std::string_view passwd, std::string_view group) {
  std::string_view rest = spec;
  const auto uid = parse_id(take(rest, ':'));
  std::optional<User> found;
  if (uid) {
    found = find_line(passwd, [&](std::string_view, uid_t u) { return u == *uid; });
    if (!found) found = User{"", *uid, *uid, "/", {}};
    if (!rest.empty()) {
      const auto gid = parse_id(rest);
      if (!gid) {
        return Error(ErrorCode::kInvalidArgument, "user " + std::string(spec) + ": bad group id");
      }
      found->gid = *gid;
    }
  } else {
    found = find_line(passwd, [&](std::string_view name, uid_t) { return name == spec; });
    if (!found) {
      return Error(ErrorCode::kNotFound, "no user " + std::string(spec) + " in /etc/passwd");
    }
  }
  if (!found->name.empty()) add_groups(*found, group);
  return std::move(*found);
}

std::string home_directory() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing changes the environment once there are threads.
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') return home;
  const auto passwd = read_file("/etc/passwd", 1 << 20);
  const auto user = find_user(std::to_string(::geteuid()), passwd ? *passwd : Bytes(), "");
  return user ? user->home : "/";
}

}  // namespace sluice
