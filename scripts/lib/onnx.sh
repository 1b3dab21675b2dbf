# ONNX's C++ library, for the tool: fetched as its source package and built once
# for a machine, in the cache. Sourced by scripts/setup, which sets `env` (the
# environment with CMake and ninja). Sets `onnx`, the prefix: include/, lib/.
# shellcheck shell=bash

# The version is that of Python's onnx, so that tests and tool agree.
onnxVersion() { sed -n 's/^onnx==//p' "$root/scripts/requirements-onnx.txt"; }

# buildOnnx FOLDER: static, position-independent, hidden; protobuf is Debian's.
# Its messages name its own sources, wherever the folder was.
buildOnnx() {
  local work=$1
  "$env/bin/python" -m pip download --disable-pip-version-check --no-input \
    --no-deps --no-binary onnx -d "$work" "onnx==$(onnxVersion)" &&
    mkdir "$work/source" &&
    tar -xzf "$work"/onnx-*.tar.gz -C "$work/source" --strip-components=1 &&
    "$env/bin/cmake" -G Ninja -S "$work/source" -B "$work/build" \
      -DCMAKE_MAKE_PROGRAM="$env/bin/ninja" -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG \"-ffile-prefix-map=$work/source/=\"" \
      -DCMAKE_INSTALL_PREFIX="$work/prefix" -DCMAKE_INSTALL_LIBDIR=lib \
      -DONNX_BUILD_PYTHON=OFF -DONNX_BUILD_TESTS=OFF -DONNX_ML=ON \
      -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
      -DCMAKE_CXX_VISIBILITY_PRESET=hidden -DCMAKE_VISIBILITY_INLINES_HIDDEN=ON \
      -DPython3_EXECUTABLE="$env/bin/python" &&
    "$env/bin/cmake" --build "$work/build" -j "$(defaultJobs)" &&
    "$env/bin/cmake" --install "$work/build"
}

# makeOnnx: the prefix is in onnx-<hash of version, compiler, protobuf and this
# file>; made under another name, beside it, and renamed when it is whole.
makeOnnx() {
  local hash work
  hash=$({
    onnxVersion
    "${CXX:-c++}" --version | head -n 1
    protoc --version
    cat "$root/scripts/lib/onnx.sh"
  } | sha256sum | cut -c1-12)
  onnx=$cache/onnx-$hash
  if [ ! -e "$onnx" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/onnx-$hash.lock"
    flock -n 9 || timed "waiting for another set-up" flock 9
  fi
  if [ ! -e "$onnx" ]; then
    rm -rf "$onnx".new.*
    work=$(mktemp -d "$onnx.new.XXXXXX")
    timed "ONNX $(onnxVersion), built from its sources (two to four minutes)" \
      buildOnnx "$work" ||
      fail 2 "ONNX could not be built (is a package index reachable?)"
    mv "$work/prefix" "$onnx"
    rm -rf "$work"
  fi
  exec 9>&-
}
