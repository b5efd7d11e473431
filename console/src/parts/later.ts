/** Parts that are fetched when they are needed. */
import { lazy, type ComponentType, type LazyExoticComponent } from 'react'

/** A fetch that a change of the network cuts off is tried again so often, */
const RETRIES = 2
/** so far apart, in milliseconds. */
const PAUSE_MS = 500

export function later<Props>(load: () => Promise<{ default: ComponentType<Props> }>): LazyExoticComponent<ComponentType<Props>> {
  const attempt = async (left: number): Promise<{ default: ComponentType<Props> }> => {
    try {
      return await load()
    } catch (error) {
      if (left === 0) throw error
      await new Promise((go) => setTimeout(go, PAUSE_MS))
      return attempt(left - 1)
    }
  }
  return lazy(() => attempt(RETRIES))
}
