#include "sluice/base/metrics.h"

#include <fmt/format.h>

#include <iterator>
#include <mutex>
#include <string_view>

namespace sluice {
namespace {

std::string escaped(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

struct Metrics::State {
  struct Family {
    std::string type, help;
    std::map<MetricLabels, std::atomic<double>> values;
  };

  std::atomic<double>& value(const std::string& name, std::string_view type,
                             const std::string& help, const MetricLabels& labels) {
    const std::lock_guard lock(mutex);
    Family& family = families[name];
    family.type = type;
    family.help = help;
    return family.values[labels];
  }

  std::mutex mutex;
  std::map<std::string, Family> families;  // by name
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

Metrics::Counter Metrics::counter(const std::string& name, const std::string& help,
                                  const MetricLabels& labels) {
  return Counter(state_->value(name, "counter", help, labels));
}

Metrics::Gauge Metrics::gauge(const std::string& name, const std::string& help,
                              const MetricLabels& labels) {
  return Gauge(state_->value(name, "gauge", help, labels));
}

std::string Metrics::text() const {
  std::string out;
  auto it = std::back_inserter(out);
  const std::lock_guard lock(state_->mutex);
  for (const auto& [name, family] : state_->families) {
    fmt::format_to(it, "# HELP {0} {1}\n# TYPE {0} {2}\n", name, family.help, family.type);
    for (const auto& [labels, value] : family.values) {
      std::string list;
      for (const auto& [label, text] : labels) {
        fmt::format_to(std::back_inserter(list), "{}{}=\"{}\"", list.empty() ? "" : ",", label,
                       escaped(text));
      }
      if (!list.empty()) list = "{" + list + "}";
      fmt::format_to(it, "{}{} {}\n", name, list, value.load());
    }
  }
  return out;
}

}  // namespace sluice
