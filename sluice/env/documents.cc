#include "sluice/env/documents.h"

#include <fmt/format.h>

#include "sluice/base/core/check.h"
#include "sluice/env/embedded.h"

namespace sluice::env {
namespace {

constexpr std::string_view kStyle =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c1c1c;background:#fff}"
    "h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}"
    "code,pre{font:14px/1.5 ui-monospace,monospace;background:#f3f3f3;border-radius:4px}"
    "code{padding:.1rem .3rem}pre{padding:.8rem;overflow:auto;white-space:pre-wrap}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.3rem 1rem .3rem 0;"
    "vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}"
    "code,pre{background:#262626}a{color:#8ab4f8}}";

std::string escape(std::string_view text) {
  constexpr std::string_view special = "&<>\"'";
  constexpr std::string_view entities[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
  std::string out;
  for (const char c : text) {
    const size_t which = special.find(c);
    out.append(which == special.npos ? std::string_view(&c, 1) : entities[which]);
  }
  return out;
}

std::string page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<title>{}</title><style>{}</style></head>\n<body>\n{}</body></html>\n",
      escape(title), kStyle, body);
}

}  // namespace

json::Object parse_document(std::string_view text) {
  auto value = json::parse(text);
  CHECK(value && value->is_object());
  return std::move(value->get_object());
}

json::Object openapi_document(const std::function<bool(std::string_view)>& serves) {
  json::Object document = parse_document(embedded::kOpenapi);
  json::Object kept;
  for (const auto& path : document["paths"].get_object()) {
    if (serves(path.key())) kept[path.key()] = path.value();
  }
  document["paths"] = std::move(kept);
  return document;
}

const json::Object& tool_schemas() {
  static const json::Object schemas = parse_document(embedded::kToolSchemas);
  return schemas;
}

std::string docs_page(const json::Object& openapi) {
  const json::Object& info = *json::get_object(openapi, "info");
  const std::string_view title = json::get_string(info, "title").value_or("HTTP API");
  std::string body = fmt::format(
      "<h1>{}</h1>\n<p>Version {}. The machine's form of this page is "
      "<a href=\"/openapi.json\">/openapi.json</a>; the schemas of this environment are at "
      "<a href=\"/schema\">/schema</a>.</p>\n",
      escape(title), escape(json::get_string(info, "version").value_or("")));
  for (const auto& path : *json::get_object(openapi, "paths")) {
    for (const auto& method : path.value().get_object()) {
      const json::Object& operation = method.value().get_object();
      std::string name(method.key());
      for (char& c : name) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
      body.append(fmt::format("<h2><code>{} {}</code> {}</h2>\n<p>{}</p>\n", name,
                              escape(std::string_view(path.key())),
                              escape(json::get_string(operation, "summary").value_or("")),
                              escape(json::get_string(operation, "description").value_or(""))));
      body.append("<table><tr><th>status</th><th>meaning</th></tr>\n");
      if (const json::Object* responses = json::get_object(operation, "responses")) {
        for (const auto& response : *responses) {
          const json::Object* object = response.value().if_object();
          body.append(fmt::format(
              "<tr><td>{}</td><td>{}</td></tr>\n", escape(std::string_view(response.key())),
              escape(object == nullptr ? ""
                                       : json::get_string(*object, "description").value_or(""))));
        }
      }
      body.append("</table>\n");
    }
  }
  body.append(
      "<h2>Beside HTTP</h2>\n<p><code>/ws</code>: a session over a WebSocket, one JSON frame for "
      "one JSON frame. <code>/mcp</code>: the Model Context Protocol, by POST or over a "
      "WebSocket.</p>\n");
  return page(title, body);
}

std::string index_page(const EnvironmentInfo& info, const std::vector<IndexRow>& routes,
                       const std::vector<Listing>& listings) {
  const std::string description =
      info.description.empty() ? info.class_name + " environment" : info.description;
  std::string body =
      fmt::format("<h1>{}</h1>\n<p>{}</p>\n", escape(info.name), escape(description));
  for (const Listing& listing : listings) {
    body.append(fmt::format("<h2>{}</h2>\n<ul>\n", escape(listing.title)));
    for (const std::string& row : listing.rows) {
      body.append(fmt::format("<li>{}</li>\n", escape(row)));
    }
    body.append("</ul>\n");
  }
  body.append("<h2>Routes</h2>\n<table>\n");
  for (const IndexRow& row : routes) {
    body.append(fmt::format("<tr><td><code>{}</code></td><td>{}</td></tr>\n", escape(row.route),
                            escape(row.what)));
  }
  body.append("</table>\n");
  return page(info.name, body);
}

}  // namespace sluice::env
