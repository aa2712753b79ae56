/* A tensor (batch, time, heads, width) with any strides but a contiguous last dimension. */

#pragma once

struct View {
    void *data;
    long batch, time, head; /* strides in elements */

    template <typename Number> Number *at(long b, long t, long h) const {
        return (Number *)data + b * batch + t * time + h * head;
    }
};
