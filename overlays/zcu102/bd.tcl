# SPDX-License-Identifier: Apache-2.0
# The block design: processing system, DMA, kernel, interrupts. Sourced by build.tcl.

# The newest version of a Xilinx IP in the catalog.
proc newest_ip {name} {
  set found [get_ipdefs -all -filter "VLNV =~ xilinx.com:ip:$name:* && UPGRADE_VERSIONS == \"\""]
  if {[llength $found] == 0} {
    error "the IP catalog must hold $name, but does not; use Vivado 2022.1 to 2025.2"
  }
  return [lindex $found end]
}

proc make_cell {name instance config} {
  set cell [create_bd_cell -type ip -vlnv [newest_ip $name] $instance]
  if {[llength $config] > 0} {
    set_property -dict $config $cell
  }
  return $cell
}

proc connect_pins {pins} {
  connect_bd_net [get_bd_pins [lindex $pins 0]] [get_bd_pins [lrange $pins 1 end]]
}

proc connect_interfaces {from to} {
  connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}

proc make_processing_system {board_part} {
  set ps [make_cell zynq_ultra_ps_e zynq_ultra_ps_e_0 {}]
  if {$board_part ne ""} {
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e \
      -config {apply_board_preset 1} $ps
  }
  # 200 MHz is no divisor of the PLL's 1500 MHz: a clocking wizard makes it from 100 MHz.
  set_property -dict {
    CONFIG.PSU__USE__M_AXI_GP0 1
    CONFIG.PSU__USE__M_AXI_GP1 0
    CONFIG.PSU__USE__M_AXI_GP2 0
    CONFIG.PSU__MAXIGP0__DATA_WIDTH 32
    CONFIG.PSU__USE__S_AXI_GP2 1
    CONFIG.PSU__SAXIGP2__DATA_WIDTH 128
    CONFIG.PSU__USE__IRQ0 1
    CONFIG.PSU__FPGA_PL0_ENABLE 1
    CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ 100
  } $ps
}

proc make_clock {clock_hz} {
  make_cell clk_wiz clk_wiz_0 [list \
    CONFIG.PRIM_SOURCE No_buffer \
    CONFIG.CLKOUT1_REQUESTED_OUT_FREQ [expr {$clock_hz / 1e6}] \
    CONFIG.USE_LOCKED true \
    CONFIG.RESET_TYPE ACTIVE_LOW]
  make_cell proc_sys_reset proc_sys_reset_0 {}
  connect_pins {zynq_ultra_ps_e_0/pl_clk0 clk_wiz_0/clk_in1}
  connect_pins {zynq_ultra_ps_e_0/pl_resetn0 clk_wiz_0/resetn proc_sys_reset_0/ext_reset_in}
  connect_pins {clk_wiz_0/locked proc_sys_reset_0/dcm_locked}
}

proc make_dma {settings} {
  set width [dict get $settings data_width]
  set burst [dict get $settings burst]
  make_cell axi_dma axi_dma_0 [list \
    CONFIG.c_include_sg 0 \
    CONFIG.c_sg_include_stscntrl_strm 0 \
    CONFIG.c_sg_length_width [dict get $settings length_width] \
    CONFIG.c_addr_width [dict get $settings address_width] \
    CONFIG.c_m_axi_mm2s_data_width $width \
    CONFIG.c_m_axi_s2mm_data_width $width \
    CONFIG.c_m_axis_mm2s_tdata_width $width \
    CONFIG.c_mm2s_burst_size $burst \
    CONFIG.c_s2mm_burst_size $burst \
    CONFIG.c_include_mm2s_dre 0 \
    CONFIG.c_include_s2mm_dre 0]
}

proc make_kernel {kernel} {
  dict with kernel {
    create_bd_cell -type ip -vlnv $vendor:$library:$name:$version $instance
  }
}

proc connect_data {kernel} {
  make_cell smartconnect memory_smc {CONFIG.NUM_SI 2 CONFIG.NUM_MI 1}
  connect_interfaces axi_dma_0/M_AXI_MM2S memory_smc/S00_AXI
  connect_interfaces axi_dma_0/M_AXI_S2MM memory_smc/S01_AXI
  connect_interfaces memory_smc/M00_AXI zynq_ultra_ps_e_0/S_AXI_HP0_FPD
  connect_interfaces axi_dma_0/M_AXIS_MM2S $kernel/s_axis_in
  connect_interfaces $kernel/m_axis_out axi_dma_0/S_AXIS_S2MM
}

proc connect_control {windows} {
  make_cell smartconnect control_smc \
    [list CONFIG.NUM_SI 1 CONFIG.NUM_MI [dict size $windows]]
  connect_interfaces zynq_ultra_ps_e_0/M_AXI_HPM0_FPD control_smc/S00_AXI
  set index 0
  dict for {instance window} $windows {
    connect_interfaces [format control_smc/M%02d_AXI $index] $instance/[dict get $window port]
    incr index
  }
}

# PYNQ finds interrupts only through an xlconcat and an interrupt controller.
proc connect_interrupts {interrupts} {
  make_cell axi_intc axi_intc_0 {CONFIG.C_IRQ_CONNECTION 1}
  make_cell xlconcat xlconcat_0 [list CONFIG.NUM_PORTS [dict size $interrupts]]
  dict for {number pin} $interrupts {
    connect_pins [list $pin xlconcat_0/In$number]
  }
  connect_pins {xlconcat_0/dout axi_intc_0/intr}
  connect_pins {axi_intc_0/irq zynq_ultra_ps_e_0/pl_ps_irq0}
}

proc connect_clocks {kernel} {
  connect_pins [list clk_wiz_0/clk_out1 \
    zynq_ultra_ps_e_0/maxihpm0_fpd_aclk zynq_ultra_ps_e_0/saxihp0_fpd_aclk \
    proc_sys_reset_0/slowest_sync_clk memory_smc/aclk control_smc/aclk \
    axi_dma_0/s_axi_lite_aclk axi_dma_0/m_axi_mm2s_aclk axi_dma_0/m_axi_s2mm_aclk \
    axi_intc_0/s_axi_aclk $kernel/ap_clk]
  connect_pins [list proc_sys_reset_0/peripheral_aresetn \
    axi_dma_0/axi_resetn axi_intc_0/s_axi_aresetn $kernel/ap_rst_n]
  connect_pins {proc_sys_reset_0/interconnect_aresetn memory_smc/aresetn control_smc/aresetn}
}

proc assign_addresses {windows} {
  dict for {instance window} $windows {
    assign_bd_address -force \
      -offset [dict get $window base] \
      -range [dict get $window size] \
      -target_address_space [get_bd_addr_spaces zynq_ultra_ps_e_0/Data] \
      [get_bd_addr_segs -of_objects [get_bd_intf_pins $instance/[dict get $window port]]]
  }
  foreach channel {MM2S S2MM} {
    foreach memory {HP0_DDR_LOW HP0_DDR_HIGH} {
      assign_bd_address -force \
        -target_address_space [get_bd_addr_spaces axi_dma_0/Data_$channel] \
        [get_bd_addr_segs zynq_ultra_ps_e_0/SAXIGP2/$memory]
    }
  }
}

proc make_design {interface} {
  set kernel [dict get $interface kernel instance]
  create_bd_design emamba
  make_processing_system [dict get $interface board_part]
  make_clock [dict get $interface clock_hz]
  make_dma [dict get $interface dma]
  make_kernel [dict get $interface kernel]
  connect_interrupts [dict get $interface interrupts]
  connect_data $kernel
  connect_control [dict get $interface windows]
  connect_clocks $kernel
  assign_addresses [dict get $interface windows]
  validate_bd_design
  save_bd_design
}
