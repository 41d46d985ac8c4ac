#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "sluice/sandbox/local/image/store.h"
#include "sluice/sandbox/local/image/testing.h"

namespace sluice::sandbox::local {
namespace {

using ::testing::HasSubstr;
using testing::Layer;
using testing::Packing;
using testing::plain_layer;
using testing::Tar;
using ::testing::UnorderedElementsAre;
using testing::write_text;

class ImageTest : public ::testing::Test {
 protected:
  Result<std::shared_ptr<const Image>> unpack(const Bytes& tarball, ImageLimits limits = {}) {
    write_text(scratch_ / "image.tar", tarball);
    store_ = std::make_unique<ImageStore>(scratch_ / "images", limits);
    return store_->open(scratch_ / "image.tar");
  }
  std::shared_ptr<const Image> unpacked(const Bytes& tarball) {
    auto image = unpack(tarball);
    EXPECT_TRUE(image) << image.error().message;
    return image ? *image : nullptr;
  }
  std::shared_ptr<const Image> layered(std::vector<Layer> layers) {
    return unpacked(testing::docker_tarball(layers));
  }
  // Why it is refused; and nothing of it may be left, inside or out.
  Error refused(std::vector<Layer> layers, ImageLimits limits = {}) {
    write_text(scratch_ / "outside", "as it was");
    auto image = unpack(testing::docker_tarball(layers), limits);
    EXPECT_FALSE(image);
    EXPECT_EQ(read_file(scratch_ / "outside", 100).value_or(""), "as it was");
    EXPECT_TRUE(names_in(scratch_ / "images").empty());
    return image ? Error() : std::move(image).error();
  }
  static std::vector<std::string> names_in(const std::string& path) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
      const std::string name = entry.path().filename();
      if (!name.ends_with(".lock")) names.push_back(name);
    }
    return names;
  }
  static std::string text(const std::shared_ptr<const Image>& image, const std::string& path) {
    return read_file(image->root + "/" + path, 1 << 20).value_or("(none)");
  }
  static bool exists(const std::shared_ptr<const Image>& image, const std::string& path) {
    struct stat st{};
    return ::lstat((image->root + "/" + path).c_str(), &st) == 0;
  }
  static struct stat info(const std::shared_ptr<const Image>& image, const std::string& path) {
    struct stat st{};
    EXPECT_EQ(::lstat((image->root + "/" + path).c_str(), &st), 0) << path;
    return st;
  }

  testing::Scratch scratch_;
  std::unique_ptr<ImageStore> store_;
};

TEST_F(ImageTest, LaysLayersOverEachOther) {
  Tar below, above;
  below.directory("etc").file("etc/one", "1").file("etc/two", "2").file("data", "old");
  above.file("./etc/two", "two").directory("data").file("data/inner", "now a directory");
  above.file("new/deep/x", "x");
  const auto image = layered({plain_layer(below), plain_layer(above)});
  ASSERT_TRUE(image);
  EXPECT_EQ(text(image, "etc/one"), "1");
  EXPECT_EQ(text(image, "etc/two"), "two");
  EXPECT_EQ(text(image, "data/inner"), "now a directory");
  EXPECT_EQ(text(image, "new/deep/x"), "x");
}

TEST_F(ImageTest, HidesWhatWhiteoutsName) {
  Tar below, above;
  below.file("a/gone", "x").file("a/stays", "x").file("tree/deep/x", "x").file("b/old", "x");
  below.file("c/old/x", "x");
  // In any order within the layer: they are about lower layers only.
  above.file("b/new", "n").file("b/.wh..wh..opq", "").file("a/.wh.gone", "").file(".wh.tree", "");
  above.file("c/own", "o").file(".wh.c", "").file("nowhere/.wh.x", "").file(".wh..wh.plnk/1.2", "");
  const auto image = layered({plain_layer(below), plain_layer(above)});
  ASSERT_TRUE(image);
  EXPECT_FALSE(exists(image, "a/gone"));
  EXPECT_TRUE(exists(image, "a/stays"));
  EXPECT_FALSE(exists(image, "tree"));
  EXPECT_THAT(names_in(image->root + "/b"), UnorderedElementsAre("new"));
  EXPECT_THAT(names_in(image->root + "/c"), UnorderedElementsAre("own"));
  EXPECT_THAT(names_in(image->root), UnorderedElementsAre("a", "b", "c"));
}

TEST_F(ImageTest, ReadsCompressedLayersAndOciLayouts) {
  for (const Packing packing : {Packing::kPlain, Packing::kGzip, Packing::kZstd}) {
    const auto fill = [&](Tar& tar) {
      tar.file("packed", std::to_string(static_cast<int>(packing)) + std::string(300'000, 'p'));
    };
    const Layer layer = testing::packed_layer(packing, fill);
    const auto image = unpacked(testing::oci_tarball({layer}));
    ASSERT_TRUE(image);
    EXPECT_EQ(text(image, "packed").size(), 300'001u);
    // The same image, whatever it comes in.
    EXPECT_EQ(unpacked(testing::docker_tarball({layer}))->id.size(), 64u);
  }
}

TEST_F(ImageTest, KeepsModesTimesLinksAndNamesButNoSetUserIds) {
  Tar tar;
  tar.file("bin/su", "x", 06755).directory("tmp", 01777).directory("shut", 0500);
  tar.file("shut/inner", "x", 0640).symlink("link", "/somewhere/else").file("one", "1");
  tar.hard_link("two", "one").file("n\xc3\xa4me", "u");
  const auto image = layered({plain_layer(tar)});
  ASSERT_TRUE(image);
  EXPECT_EQ(info(image, "bin/su").st_mode & 07777, 0755u);
  EXPECT_EQ(info(image, "tmp").st_mode & 07777, 01777u);
  EXPECT_EQ(info(image, "shut/inner").st_mode & 0777, 0640u);
  EXPECT_EQ(info(image, "bin/su").st_mtim.tv_sec, 1'000'000'000);
  EXPECT_EQ(info(image, "tmp").st_mtim.tv_sec, 1'000'000'000);
  EXPECT_EQ(std::filesystem::read_symlink(image->root + "/link"), "/somewhere/else");
  EXPECT_EQ(info(image, "one").st_ino, info(image, "two").st_ino);
  EXPECT_EQ(text(image, "n\xc3\xa4me"), "u");
  if (::geteuid() == 0) EXPECT_EQ(info(image, "shut").st_mode & 0777, 0500u);
}

TEST_F(ImageTest, KeepsOwnersAsRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  Tar tar;
  tar.file("theirs", "x", 0600, 1000, 50).directory("home", 0755, 1000, 1000);
  tar.file("far", "x", 0600, 70'000, 3);
  const auto image = layered({plain_layer(tar)});
  ASSERT_TRUE(image);
  EXPECT_EQ(info(image, "theirs").st_uid, 1000u);
  EXPECT_EQ(info(image, "theirs").st_gid, 50u);
  EXPECT_EQ(info(image, "home").st_uid, 1000u);
  EXPECT_EQ(info(image, "far").st_uid, 65'534u);
}

TEST_F(ImageTest, RefusesNamesThatLeave) {
  const auto why = [&](auto fill) {
    Tar tar;
    fill(tar);
    const Error error = refused({plain_layer(tar)});
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << error.message;
    return error.message;
  };
  EXPECT_THAT(why([](Tar& t) { t.file("/etc/x", "x"); }), HasSubstr("absolute"));
  EXPECT_THAT(why([](Tar& t) { t.file("../outside", "x"); }), HasSubstr("leaves"));
  EXPECT_THAT(why([](Tar& t) { t.file("a/../../../outside", "x"); }), HasSubstr("leaves"));
  EXPECT_THAT(why([](Tar& t) { t.hard_link("in", "../../outside"); }), HasSubstr("leaves"));
  EXPECT_THAT(why([](Tar& t) { t.hard_link("in", "/etc/passwd"); }), HasSubstr("absolute"));
  EXPECT_THAT(why([](Tar& t) { t.hard_link("in", "missing"); }), HasSubstr("no file of the image"));
  EXPECT_THAT(why([](Tar& t) { t.file("d/x", "").hard_link("in", "d"); }),
              HasSubstr("no file of the image"));
  EXPECT_THAT(why([](Tar& t) { t.file("a/.wh...", ""); }), HasSubstr("hides nothing"));
  EXPECT_THAT(why([](Tar& t) { t.file(".wh.", ""); }), HasSubstr("hides nothing"));
}

TEST_F(ImageTest, RefusesToGoThroughLinks) {
  const std::string up = "../../../";  // from the image's root to the scratch directory
  const auto why = [&](auto lower, auto upper) {
    Tar below, above;
    lower(below);
    upper(above);
    return refused({plain_layer(below), plain_layer(above)}).message;
  };
  for (const std::string& target : {up, std::string("/"), std::string("real"), scratch_ / "."}) {
    const auto link = [&](Tar& t) {
      t.directory("real").symlink("link", target);
    };
    EXPECT_THAT(why(link, [](Tar& t) { t.file("link/outside", "x"); }), HasSubstr("symbolic link"));
    EXPECT_THAT(why(link, [](Tar& t) { t.directory("link/new"); }), HasSubstr("symbolic link"));
    EXPECT_THAT(why(link, [](Tar& t) { t.file("link/.wh.outside", ""); }),
                HasSubstr("symbolic link"));
    EXPECT_THAT(why(link, [](Tar& t) { t.file("link/.wh..wh..opq", ""); }),
                HasSubstr("symbolic link"));
    EXPECT_THAT(why(link, [](Tar& t) { t.hard_link("in", "link/outside"); }),
                HasSubstr("no file of the image"));
  }
  // Within one layer, too.
  Tar tar;
  tar.symlink("link", up).file("link/outside", "x");
  EXPECT_THAT(refused({plain_layer(tar)}).message, HasSubstr("symbolic link"));
  // A link itself may be replaced: nothing is written through it.
  Tar below, above;
  below.symlink("link", scratch_ / "outside");
  above.file("link", "a file now");
  const auto image = layered({plain_layer(below), plain_layer(above)});
  ASSERT_TRUE(image);
  EXPECT_EQ(text(image, "link"), "a file now");
  EXPECT_EQ(read_file(scratch_ / "outside", 100).value_or(""), "as it was");
}

TEST_F(ImageTest, RefusesDevicesPipesAndDuplicates) {
  const auto why = [&](auto fill) {
    Tar tar;
    fill(tar);
    return refused({plain_layer(tar)}).message;
  };
  EXPECT_THAT(why([](Tar& t) { t.special("disk", AE_IFBLK); }), HasSubstr("device"));
  EXPECT_THAT(why([](Tar& t) { t.special("tty", AE_IFCHR); }), HasSubstr("device"));
  EXPECT_THAT(why([](Tar& t) { t.special("pipe", AE_IFIFO); }), HasSubstr("pipe"));
  EXPECT_THAT(why([](Tar& t) { t.file("x", "1").file("x", "2"); }), HasSubstr("twice"));
  EXPECT_THAT(why([](Tar& t) { t.file("x", "1").file("x/y", "2"); }), HasSubstr("no directory"));
  // Directories may come again, and a sandbox has devices of its own.
  Tar tar;
  tar.directory("d", 0700).directory("d", 0755).special("dev/null", AE_IFCHR);
  const auto image = layered({plain_layer(tar)});
  ASSERT_TRUE(image);
  EXPECT_EQ(info(image, "d").st_mode & 0777, 0755u);
  EXPECT_FALSE(exists(image, "dev/null"));
}

TEST_F(ImageTest, HoldsItsLimits) {
  Tar many, large;
  for (int i = 0; i < 50; ++i) many.file("f" + std::to_string(i), "x");
  large.file("large", std::string(1'000'000, 'x'));
  ImageLimits limits;
  limits.entries = 49;
  EXPECT_EQ(refused({plain_layer(many)}, limits).code, ErrorCode::kTooLarge);
  limits = {};
  limits.bytes = 900'000;
  EXPECT_EQ(refused({plain_layer(large)}, limits).code, ErrorCode::kTooLarge);
  // A small file that becomes a large one.
  const Layer bomb = testing::packed_layer(
      Packing::kGzip, [](Tar& tar) { tar.file("zeros", std::string(8'000'000, '\0')); });
  EXPECT_LT(bomb.bytes.size(), 100'000u);
  EXPECT_EQ(refused({bomb}, limits).code, ErrorCode::kTooLarge);
  Tar deep;
  std::string path = "d";
  for (int i = 0; i < 200; ++i) path += "/d";
  deep.file(path, "x");
  EXPECT_THAT(refused({plain_layer(deep)}).message, HasSubstr("too deep"));
}

TEST_F(ImageTest, BelievesNoDigest) {
  Tar tar;
  tar.file("x", "what it says");
  Layer layer = plain_layer(tar);
  Layer other = layer;
  other.diff_id = std::string(64, 'a');
  EXPECT_THAT(refused({other}).message, HasSubstr("not what its digest says"));
  // A byte that changed on the way.
  Bytes tarball = testing::docker_tarball({layer});
  tarball[tarball.find("what it says")] ^= 1;
  auto image = unpack(tarball);
  ASSERT_FALSE(image);
  EXPECT_THAT(image.error().message, HasSubstr("not what its digest says"));
  EXPECT_TRUE(names_in(scratch_ / "images").empty());
  // The configuration's own.
  tarball = testing::docker_tarball({layer});
  const size_t at = tarball.find("\"WorkingDir\":\"/srv\"");
  ASSERT_NE(at, Bytes::npos);
  tarball[at + 2] ^= 1;
  image = unpack(tarball);
  ASSERT_FALSE(image);
  EXPECT_THAT(image.error().message, HasSubstr("not what its digest says"));
}

TEST_F(ImageTest, RefusesWhatIsNoImage) {
  const auto why = [&](const Bytes& bytes) {
    auto image = unpack(bytes);
    EXPECT_FALSE(image);
    return image ? std::string() : image.error().message;
  };
  EXPECT_THAT(why("no tar at all, but a text that is long enough to be looked at"),
              HasSubstr("tar"));
  EXPECT_THAT(why(Tar().file("usr/bin/x", "a root").finish()), HasSubstr("docker save"));
  EXPECT_THAT(why(Tar().file("manifest.json", "[").finish()), HasSubstr("manifest.json"));
  EXPECT_THAT(why(Tar().file("manifest.json", "[{},{}]").finish()), HasSubstr("2 images"));
  EXPECT_THAT(
      why(Tar().file("manifest.json", R"([{"Config":"c","Layers":["../../etc/x"]}])").finish()),
      HasSubstr("leaves"));
  EXPECT_THAT(why(Tar().file("manifest.json", R"([{"Config":"c","Layers":[]}])").finish()),
              HasSubstr("lacks"));
  Tar tar;
  const Layer layer = plain_layer(tar.file("x", "x"));
  EXPECT_THAT(why(testing::docker_tarball({layer}).substr(0, 3000)), HasSubstr("image"));
  const auto image = unpack(Tar()
                                .file("c", testing::config_of({layer}, {}, "riscv64"))
                                .file("l", layer.bytes)
                                .file("manifest.json", R"([{"Config":"c","Layers":["l"]}])")
                                .finish());
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(image.error().message, HasSubstr("riscv64"));
}

TEST_F(ImageTest, UnpacksOnceAndTrustsNothingHalf) {
  Tar tar;
  const Bytes tarball = testing::docker_tarball({plain_layer(tar.file("x", "x"))});
  const auto first = unpacked(tarball);
  ASSERT_TRUE(first);
  write_text(first->root + "/mark", "still the same directory");
  const auto again = unpacked(tarball);
  EXPECT_EQ(again->root, first->root);
  EXPECT_TRUE(exists(again, "mark"));
  // Somebody died while unpacking it: what he left is not looked at.
  const std::string place = scratch_ / "images/" + first->id;
  std::filesystem::rename(place, place + ".part");
  const auto whole = unpacked(tarball);
  ASSERT_TRUE(whole);
  EXPECT_FALSE(exists(whole, "mark"));
  EXPECT_EQ(text(whole, "x"), "x");
  EXPECT_THAT(names_in(scratch_ / "images"), UnorderedElementsAre(first->id));
  // A tarball that is written again under its name is another one.
  Tar other;
  const auto changed = unpacked(testing::docker_tarball({plain_layer(other.file("x", "y"))}));
  ASSERT_TRUE(changed);
  EXPECT_EQ(text(changed, "x"), "y");
}

TEST_F(ImageTest, ManyMayWantTheSameAtOnce) {
  Tar tar;
  for (int i = 0; i < 300; ++i)
    tar.file("d" + std::to_string(i % 7) + "/" + std::to_string(i), "x");
  write_text(scratch_ / "image.tar", testing::docker_tarball({plain_layer(tar)}));
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      // Stores of their own, as other processes have.
      threads.emplace_back([&] {
        ImageStore store(scratch_ / "images");
        const auto image = store.open(scratch_ / "image.tar");
        if (image && exists(*image, "d0/0") && exists(*image, "d5/299")) ++good;
      });
    }
  }
  EXPECT_EQ(good, 8);
  EXPECT_EQ(names_in(scratch_ / "images").size(), 1u);
}

TEST_F(ImageTest, TellsEnvironmentAndAccounts) {
  Tar tar;
  tar.symlink("etc/passwd", "/elsewhere/passwd")
      .file("elsewhere/passwd", "www:x:33:33::/:/bin/sh\n");
  tar.symlink("etc/group", "../../../../../../etc/hostname");
  const auto image = unpacked(testing::docker_tarball(
      {plain_layer(tar)}, {"PATH=/opt/bin:/bin", "A=1=2", "no variable", "=x", "B="}));
  ASSERT_TRUE(image);
  EXPECT_EQ(image->env, (Env{{"PATH", "/opt/bin:/bin"}, {"A", "1=2"}, {"B", ""}}));
  // Links in it lead nowhere but within it.
  EXPECT_EQ(image->passwd, "www:x:33:33::/:/bin/sh\n");
  EXPECT_EQ(image->group, "");
}

// As far as can be seen without unpacking it: layers are not looked into.
TEST_F(ImageTest, ALookTellsWhatIsNoImage) {
  const std::string path = scratch_ / "image.tar";
  const auto look = [&](const Bytes& content) {
    write_text(path, content);
    const auto fine = ImageStore::check(path);
    return fine ? "" : fine.error().message;
  };
  Tar layer, other;
  const Bytes good = testing::docker_tarball({plain_layer(layer.file("x", "x"))});
  EXPECT_EQ(look(good), "");
  EXPECT_THAT(look("an image"), HasSubstr(path));
  EXPECT_NE(look(good.substr(0, 100)), "");
  EXPECT_THAT(look(other.file("x", "x").finish()),
              HasSubstr("neither manifest.json nor index.json"));
  EXPECT_TRUE(names_in(scratch_ / "images").empty());
  EXPECT_FALSE(ImageStore::check(path + ".none"));
}

TEST_F(ImageTest, KeepsItsFilesFromOthers) {
  Tar tar;
  ASSERT_TRUE(layered({plain_layer(tar.file("x", "x"))}));
  struct stat st{};
  ASSERT_EQ(::stat((scratch_ / "images").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  ASSERT_EQ(::chmod((scratch_ / "images").c_str(), 0755), 0);
  Tar other;
  const auto image = unpack(testing::docker_tarball({plain_layer(other.file("y", "y"))}));
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code, ErrorCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice::sandbox::local
