# INVOPT_SANITIZE: "" or what -fsanitize takes, "address,undefined" or "thread".
# Without vptr: it needs the typeinfo of classes that LibTorch keeps to itself
# (c10::DynamicType).
set(INVOPT_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize takes them")
if(INVOPT_SANITIZE)
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${INVOPT_SANITIZE};-fno-sanitize=vptr;-fno-sanitize-recover=all;-fno-omit-frame-pointer>")
  add_link_options("-fsanitize=${INVOPT_SANITIZE}")
endif()
