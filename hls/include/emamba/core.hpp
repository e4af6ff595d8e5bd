// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/chain.hpp"

/// The whole pipeline: one packet in, one packet out (packets.hpp).
void emamba_core(emamba::chain_t& in, emamba::chain_t& out);
