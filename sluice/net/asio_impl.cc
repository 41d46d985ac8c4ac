// Asio and Beast are header-only; with *_SEPARATE_COMPILATION their bodies are compiled here, once.
#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
