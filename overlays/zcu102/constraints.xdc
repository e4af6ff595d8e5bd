# SPDX-License-Identifier: Apache-2.0
# No pins and no clocks of our own: data comes through the processing system, and the clocking
# wizard constrains its clock.
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]
