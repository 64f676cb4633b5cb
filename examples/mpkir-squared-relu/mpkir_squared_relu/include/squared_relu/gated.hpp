// The epilogue of mpk::linear: what an output element is of the two sums.
inline float squared_relu(float gate, float up) { return (gate < 0.0f ? 0.0f : gate * gate) * up; }
