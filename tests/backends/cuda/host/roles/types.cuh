#pragma once
#include "sync.cuh"
