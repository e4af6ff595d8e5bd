# SPDX-License-Identifier: Apache-2.0
# Generated from src/emamba/export/interface.py by `python -m emamba.overlay`.
set interface {
  version {2}
  clock_hz {200000000}
  part {xczu9eg-ffvb1156-2-e}
  board_part {xilinx.com:zcu102:part0:3.4}
  kernel {instance emamba_0 vendor emamba library hls name emamba_kernel version 1.0}
  dma {data_width 64 address_width 40 length_width 26 burst 16}
  streams {
    s_axis_in {direction in width 64}
    m_axis_out {direction out width 64}
  }
  windows {
    axi_dma_0 {port S_AXI_LITE base 0xa0000000 size 0x10000}
    emamba_0 {port s_axi_control base 0xa0010000 size 0x10000}
    axi_intc_0 {port s_axi base 0xa0020000 size 0x10000}
  }
  interrupts {
    0 {axi_dma_0/mm2s_introut}
    1 {axi_dma_0/s2mm_introut}
    2 {emamba_0/interrupt}
  }
  registers {
    CTRL {offset 0x0 width 32 access read-write}
    GIER {offset 0x4 width 32 access read-write}
    IP_IER {offset 0x8 width 32 access read-write}
    IP_ISR {offset 0xc width 32 access read-write}
    command {offset 0x10 width 32 access read-write}
    count {offset 0x18 width 32 access read-write}
    interface_version {offset 0x20 width 32 access read-only}
    config_hash {offset 0x30 width 64 access read-only}
    weights_crc {offset 0x40 width 32 access read-only}
    cycles {offset 0x50 width 32 access read-only}
    errors {offset 0x60 width 32 access read-only}
    saturated {offset 0x70 width 32 access read-only}
    input_crc {offset 0x80 width 32 access read-only}
    answer_crc {offset 0x90 width 32 access read-only}
  }
}
