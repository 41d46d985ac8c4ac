// Metrics in Prometheus terms. A Metrics object belongs to the process's wiring (there is no global
// one); counters and gauges live as long as it does and may be used from any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>

namespace sluice {

using MetricLabels = std::map<std::string, std::string>;

class Metrics {
 public:
  class Counter {
   public:
    void add(double n = 1) { *value_ += n; }

   private:
    friend class Metrics;
    explicit Counter(std::atomic<double>& value) : value_(&value) {}
    std::atomic<double>* value_;
  };
  class Gauge {
   public:
    void set(double value) { *value_ = value; }
    void add(double n) { *value_ += n; }

   private:
    friend class Metrics;
    explicit Gauge(std::atomic<double>& value) : value_(&value) {}
    std::atomic<double>* value_;
  };

  Metrics();
  ~Metrics();

  // The same name and labels give the same counter again.
  // REQUIRES: one name is either a counter's or a gauge's; `help` is one line.
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
