// Metrics in Prometheus terms. A Metrics object belongs to the process's wiring (there is no global
// one); counters and gauges live as long as it does and may be used from any thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

using MetricLabels = std::map<std::string, std::string>;

class Metrics {
 public:
  class Counter {
   public:
    void add(double n = 1);

   private:
    friend class Metrics;
    explicit Counter(void* impl) : impl_(impl) {}
    void* impl_;
  };
  class Gauge {
   public:
    void set(double value);
    void add(double n);

   private:
    friend class Metrics;
    explicit Gauge(void* impl) : impl_(impl) {}
    void* impl_;
  };

  Metrics();
  ~Metrics();

  // The same name and labels give the same counter again.
  Counter counter(const std::string& name, const std::string& help,
                  const MetricLabels& labels = {});
  Gauge gauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});

  // The text exposition format, version 0.0.4.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice
