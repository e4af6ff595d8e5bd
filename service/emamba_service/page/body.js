// The body: joints in the order of every answer, bones between them, and the space between poses.

export const JOINTS = [
  "SpineBase", "SpineMid", "Neck", "Head",
  "ShoulderLeft", "ElbowLeft", "WristLeft",
  "ShoulderRight", "ElbowRight", "WristRight",
  "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
  "HipRight", "KneeRight", "AnkleRight", "FootRight",
  "SpineShoulder",
];

export const BONES = [
  [0, 1], [1, 18], [18, 2], [2, 3],
  [18, 4], [4, 5], [5, 6],
  [18, 7], [7, 8], [8, 9],
  [0, 10], [10, 11], [11, 12], [12, 13],
  [0, 14], [14, 15], [15, 16], [16, 17],
];

// Which side a joint belongs to: the colour of the bone that ends there.
export const side = (joint) =>
  JOINTS[joint].endsWith("Left") ? "left" : JOINTS[joint].endsWith("Right") ? "right" : "spine";

// Joints part of the way from one pose to the next; `part` is 0..1.
export function between(from, to, part) {
  if (!from || part >= 1) return to;
  return to.map((joint, j) => joint.map((value, axis) => from[j][axis] + (value - from[j][axis]) * part));
}

// Mean absolute error over the 57 coordinates, in centimetres: the metric of the data set.
export function errorCm(joints, labels) {
  let sum = 0;
  joints.forEach((joint, j) => joint.forEach((value, axis) => { sum += Math.abs(value - labels[j][axis]); }));
  return (100 * sum) / (3 * joints.length);
}
