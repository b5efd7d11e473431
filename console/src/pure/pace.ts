/** How often something may be done: so many times within any window of time. Pure. */
export class Pace {
  private readonly times: number[] = []

  constructor(
    readonly most: number,
    /** Milliseconds. */
    readonly window: number,
  ) {
    if (most < 1) throw new RangeError('a pace allows at least one')
  }

  /** 0 if it may be done now, which counts it; else milliseconds until it is worth asking again. */
  take(now: number): number {
    while (this.times[0] !== undefined && this.times[0] <= now - this.window) this.times.shift()
    const oldest = this.times[0]
    if (oldest !== undefined && this.times.length >= this.most) return oldest + this.window - now
    this.times.push(now)
    return 0
  }
}
