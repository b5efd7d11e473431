/** The console: sign in, then pages. */
import '@mantine/core/styles.css'
import '@mantine/notifications/styles.css'
import '@mantine/spotlight/styles.css'
import './app/style.css'

import { MantineProvider } from '@mantine/core'
import { Notifications } from '@mantine/notifications'
import { QueryClientProvider } from '@tanstack/react-query'
import { RouterProvider } from '@tanstack/react-router'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'

import { makeQueryClient, overviewQuery } from './api/queries'
import { makeRouter } from './app/router'
import { cameByLink, SignIn } from './app/sign-in'
import { theme, variables } from './app/theme'

const queries = makeQueryClient()
const router = makeRouter(queries)
// The page's code comes while the session is asked for; it reads nothing by itself.
void router.load()
// The first view needs no wait for the session: its cookie goes along, or the answer is 401.
if (!cameByLink && location.pathname === import.meta.env.BASE_URL) void queries.prefetchQuery({ ...overviewQuery, retry: false })
const root = document.getElementById('root')
if (root) {
  createRoot(root).render(
    <StrictMode>
      <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
        <Notifications position="bottom-right" limit={4} />
        <QueryClientProvider client={queries}>
          <SignIn onSignedIn={() => queries.clear()}>
            <RouterProvider router={router} />
          </SignIn>
        </QueryClientProvider>
      </MantineProvider>
    </StrictMode>,
  )
}
