#include "sluice/net/http.h"

#include <algorithm>

namespace sluice::net {
namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// What a proxy's client sends, "http://host/path?query", without scheme and host (RFC 9112,
// section 3.2.2: a server must take it).
std::string_view without_authority(std::string_view target) {
  if (target.starts_with('/')) return target;
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (target.size() < scheme.size() ||
        !equal_ignoring_case(target.substr(0, scheme.size()), scheme)) {
      continue;
    }
    const size_t end = target.find_first_of("/?", scheme.size());
    if (end == std::string_view::npos) return "/";
    // "http://host?query": the path is empty, which is "/".
    return target.substr(end);
  }
  return target;
}

}  // namespace

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<std::string_view> Headers::get(std::string_view name) const {
  for (const Field& field : fields_) {
    if (equal_ignoring_case(field.first, name)) return field.second;
  }
  return std::nullopt;
}

std::string_view Headers::get_or(std::string_view name, std::string_view otherwise) const {
  return get(name).value_or(otherwise);
}

void Headers::set(std::string_view name, std::string value) {
  const auto same = [&](const Field& field) {
    return equal_ignoring_case(field.first, name);
  };
  const auto first = std::find_if(fields_.begin(), fields_.end(), same);
  if (first == fields_.end()) {
    add(std::string(name), std::move(value));
    return;
  }
  first->second = std::move(value);
  fields_.erase(std::remove_if(first + 1, fields_.end(), same), fields_.end());
}

std::string_view HttpRequest::path() const {
  const std::string_view rest = without_authority(target);
  if (rest.starts_with('?')) return "/";
  return rest.substr(0, rest.find('?'));
}

std::string_view HttpRequest::query() const {
  const std::string_view rest = without_authority(target);
  const size_t mark = rest.find('?');
  return mark == std::string_view::npos ? std::string_view() : rest.substr(mark + 1);
}

std::string HttpRequest::parameter(std::string_view name) const {
  std::string_view rest = query();
  while (!rest.empty()) {
    const std::string_view field = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), field.size() + 1));
    if (field.size() > name.size() && field.starts_with(name) && field[name.size()] == '=') {
      return percent_decode(field.substr(name.size() + 1)).value_or("");
    }
  }
  return "";
}

std::optional<std::string_view> HttpRequest::bearer() const {
  // The scheme is of any case, and blanks end it (RFC 9110, section 11.4).
  const std::string_view shown = headers.get_or("Authorization", "");
  const size_t end = shown.find(' ');
  if (end == std::string_view::npos || !equal_ignoring_case(shown.substr(0, end), "Bearer")) {
    return std::nullopt;
  }
  return shown.substr(std::min(shown.find_first_not_of(' ', end), shown.size()));
}

bool HttpRequest::announces_body() const {
  return headers.get("Transfer-Encoding") || headers.get_or("Content-Length", "0") != "0";
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (text.size() - i < 3) return std::nullopt;
      const int high = hex_digit(text[i + 1]);
      const int low = hex_digit(text[i + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    out.push_back(c);
  }
  return out;
}

awaitable<void> ResponseWriter::send_or_abort(HttpResponse response) {
  const auto sent = co_await send(std::move(response));
  if (!sent) abort();
}

awaitable<Result<ResponseWriter::Upgraded>> ResponseWriter::upgrade(Headers /*headers*/) {
  co_return Error(ErrorCode::kUnsupported, "this connection cannot leave HTTP");
}

HttpResponse json_response(int status, std::string body) {
  return HttpResponse{status, Headers{{"Content-Type", "application/json"}}, std::move(body)};
}

}  // namespace sluice::net
