// From create to close: options, limits, snapshots, ends.
#include <algorithm>

#include "sluice/base/core/defer.h"
#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area life{"life", {}};

namespace {

SLUICE_CASE(life, closing_is_final_and_idempotent) {
  Sandbox& sandbox = t.fresh();
  SLUICE_EXPECT_OK(t, t.wait(sandbox.close()));
  SLUICE_EXPECT_OK(t, t.wait(sandbox.close()));
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.exec(Try::shell("true"))), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.start(Try::shell("true"))), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.read_file("/etc/passwd", 10, kAgentUser)),
                      ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.write_file("/tmp/x", "x", WriteOptions())),
                      ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.stat("/", kAgentUser)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.list("/", 1, 1, kAgentUser)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.reset_directory("/tmp/x", kAgentUser, 0755)),
                      ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.give_tree(kWorkdir, kAgentUser)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.listen(0)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.end_setup()), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.kill_all()), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.kill_user(kAgentUser)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove)),
                      ErrorCode::kClosed);
  SLUICE_EXPECT(t, !t.wait(sandbox.snapshot()).has_value());
}

awaitable<void> exec_into(Sandbox* sandbox, std::optional<Result<Output>>* into) {
  auto output = co_await sandbox->exec(Try::shell("sleep 600"));
  into->emplace(std::move(output));
}

SLUICE_CASE(life, closing_ends_what_is_pending) {
  Sandbox& sandbox = t.fresh();
  const auto job = t.start(sandbox, "sleep 600");
  std::optional<Result<Output>> pending;
  t.shard().spawn(exec_into(&sandbox, &pending));
  t.sh(sandbox, "sleep 0.1");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.close()));
  t.shard().run_until([&] { return pending.has_value(); });
  SLUICE_EXPECT(t, !pending->has_value() || (*pending)->exit.reason == Exit::Reason::kLost);
  const auto exit = t.wait(job->wait(Deadline::in(kPatience)));
  SLUICE_EXPECT(t, exit && exit->reason == Exit::Reason::kLost);
}

// finding: a sandbox without an end of its own.
SLUICE_CASE(life, a_sandbox_ends_at_its_deadline) {
  sandbox::Options options;
  options.deadline = Deadline::in(1s);
  Sandbox& sandbox = t.fresh(options);
  const auto job = t.start(sandbox, "sleep 600");
  const auto exit = t.wait(job->wait(Deadline::in(kPatience)));
  SLUICE_EXPECT(t, exit && exit->reason == Exit::Reason::kLost);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.exec(Try::shell("true"))), ErrorCode::kClosed);
}

SLUICE_CASE(life, sandboxes_know_nothing_of_each_other) {
  Sandbox& one = t.fresh();
  Sandbox& two = t.fresh();
  SLUICE_EXPECT(t, one.id() != two.id() && !one.id().empty());
  t.sh(one, "echo mine | tee file /tmp/file /dev/shm/file /var/tmp/file > /dev/null");
  const auto job = t.start(one, "exec -a marker-of-one sleep 600");
  SLUICE_EXPECT_EQ(t,
                   t.out(two,
                         "ls file /tmp/file /dev/shm/file /var/tmp/file 2>/dev/null; "
                         "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^marker-of-one'"),
                   "0\n");
}

SLUICE_CASE(life, there_is_no_network) {
  Sandbox& sandbox = t.shared();
  if (!sandbox.capabilities().network_none) return t.skip("the backend does not claim it");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
  SLUICE_EXPECT_EQ(t,
                   t.out(sandbox,
                         "for a in 1.1.1.1/53 169.254.169.254/80 10.0.0.1/80; do "
                         "(exec 3<>/dev/tcp/$a) 2>/dev/null && echo in; done"),
                   "");
  SLUICE_EXPECT(t, !t.sh(sandbox, "getent hosts example.org").exit.ok());
}

SLUICE_CASE(life, a_required_limit_is_kept_or_refused) {
  sandbox::Options options;
  options.limits.pids = Limit{50, Strictness::kRequire};
  auto made = t.create(options);
  if (!made) {
    SLUICE_EXPECT_EQ(t, made.error().code, ErrorCode::kUnsupported);
    SLUICE_EXPECT(t, !t.shared().capabilities().limits);
    // Preferred, it is a warning.
    SLUICE_EXPECT(t, !t.shared().warnings().empty());
    return;
  }
  Sandbox& sandbox = t.keep(std::move(made));
  const std::string got = t.out(sandbox, t.carry_attacks(sandbox) + " eat processes 500");
  SLUICE_EXPECT(t, std::atoi(got.c_str()) < 50);
}

SLUICE_CASE(life, open_files_are_limited) {
  sandbox::Options options;
  options.limits.open_files = Limit{64, Strictness::kRequire};
  Sandbox& sandbox = t.fresh(options);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "ulimit -n; ulimit -Hn"), "64\n64\n");
}

SLUICE_CASE(life, a_bundle_is_there_and_read_only) {
  char name[] = "/tmp/sluice-test-conformance-XXXXXX";
  if (::mkdtemp(name) == nullptr) return t.skip("no temporary directory");
  const std::string directory = name;
  const std::string make = "printf '#!/bin/sh\\necho bundled\\n' > " + directory +
                           "/tool; chmod 755 " + directory + " " + directory + "/tool";
  sandbox::Options options;
  options.bundles.push_back({directory, "/opt/agents/one"});
  const Defer remove([&] { std::system(("rm -r " + directory).c_str()); });
  if (std::system(make.c_str()) != 0) return;
  Sandbox& sandbox = t.fresh(options);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "/opt/agents/one/tool"), "bundled\n");
  SLUICE_EXPECT_EQ(
      t, t.out(sandbox, "(touch /opt/agents/one/x) 2>/dev/null || echo refused", kSetupUser),
      "refused\n");
}

SLUICE_CASE(life, bad_options_are_refused) {
  for (const char* place :
       {"relative", "/usr/x", "/proc/x", "/home/user", "/opt/../etc", "", "/"}) {
    sandbox::Options options;
    options.bundles.push_back({"/usr", place});
    SLUICE_EXPECT_ERROR(t, t.create(options), ErrorCode::kInvalidArgument);
  }
  sandbox::Options missing;
  missing.bundles.push_back({"/no/such/bundle", "/opt/x"});
  SLUICE_EXPECT_ERROR(t, t.create(missing), ErrorCode::kInvalidArgument);
}

SLUICE_CASE(life, a_snapshot_is_cloned) {
  Sandbox& sandbox = t.fresh();
  if (!sandbox.capabilities().snapshots) return t.skip("the backend makes no snapshots");
  t.sh(sandbox, "mkdir -p d; echo prepared > d/f; chmod 711 d; ln -s d/f l");
  const auto snapshot = t.wait(sandbox.snapshot());
  SLUICE_EXPECT_OK(t, snapshot);
  if (!snapshot) return;
  t.sh(sandbox, "echo later > later");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.close()));
  for (int i = 0; i < 2; ++i) {
    auto clone = t.wait(t.backend().clone(&t.shard(), *snapshot, sandbox::Options()));
    SLUICE_EXPECT_OK(t, clone);
    if (!clone) return;
    SLUICE_EXPECT_EQ(t, t.out(**clone, "cat l; stat -c %a d; ls; echo mine > mine"),
                     "prepared\n711\nd\nl\n");
    SLUICE_EXPECT_OK(t, t.wait((*clone)->close()));
  }
  SLUICE_EXPECT(t,
                !t.wait(t.backend().clone(&t.shard(), Snapshot(), sandbox::Options())).has_value());
}

SLUICE_CASE(life, work_goes_from_sandbox_to_sandbox) {
  Sandbox& one = t.fresh();
  if (!one.capabilities().snapshots) return t.skip("the backend makes no snapshots");
  t.sh(one, "echo prepared | tee gone kept > /dev/null");
  const auto snapshot = t.wait(one.snapshot());
  SLUICE_EXPECT_OK(t, snapshot);
  if (!snapshot) return;
  t.sh(one,
       "rm gone; mkdir -p a/b; echo mine | tee a/b/f x.tmp /tmp/elsewhere > /dev/null; "
       "chmod 640 a/b/f; ln -s /etc/passwd l; truncate -s 1M a/hole");
  WorkPlaces places;
  places.paths = {kWorkdir};
  places.exclude = {"*.tmp"};
  const auto work = t.wait(one.take_work(places, Duration{}));
  SLUICE_EXPECT_OK(t, work);
  if (!work) return;
  SLUICE_EXPECT_EQ(t, work->entries, uint64_t{7});
  SLUICE_EXPECT_OK(t, t.wait(one.close()));
  for (int i = 0; i < 2; ++i) {
    Sandbox& other = t.keep(t.wait(t.backend().clone(&t.shard(), *snapshot, sandbox::Options())));
    SLUICE_EXPECT_OK(t, t.wait(other.put_work(*work, kAgentUser)));
    SLUICE_EXPECT_OK(t, t.wait(other.plant_file(std::string(kWorkdir) + "/l/hidden", "hidden\n",
                                                0644, kWorkdir)));
    SLUICE_EXPECT_EQ(t,
                     t.out(other,
                           "ls; cat a/b/f l/hidden; stat -c '%a %s' a/b/f a/hole; "
                           "ls /tmp/elsewhere 2> /dev/null"),
                     "a\nkept\nl\nmine\nhidden\n640 5\n644 1048576\n");
  }
  SLUICE_EXPECT_ERROR(t, t.wait(one.take_work(places, Duration{})), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(one.put_work(*work, kAgentUser)), ErrorCode::kClosed);
  SLUICE_EXPECT_ERROR(t, t.wait(one.plant_file("/tmp/x", "x", 0644, "")), ErrorCode::kClosed);
}

SLUICE_CASE(life, reaping_leaves_the_living) {
  Sandbox& sandbox = t.fresh();
  SLUICE_EXPECT_OK(t, t.wait(t.backend().reap()));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo alive"), "alive\n");
}

SLUICE_CASE(life, ending_setup_is_always_possible) {
  Sandbox& sandbox = t.fresh();
  SLUICE_EXPECT_OK(t, t.wait(sandbox.end_setup()));
  SLUICE_EXPECT_OK(t, t.wait(sandbox.end_setup()));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo on"), "on\n");
}

SLUICE_CASE(life, twenty_sandboxes_at_once) {
  std::vector<Sandbox*> all;
  for (int i = 0; i < 20; ++i) all.push_back(&t.fresh());
  for (size_t i = 0; i < all.size(); ++i) {
    SLUICE_EXPECT_EQ(t, t.out(*all[i], "echo " + std::to_string(i)), std::to_string(i) + "\n");
  }
}

}  // namespace

}  // namespace sluice::sandbox::conformance
