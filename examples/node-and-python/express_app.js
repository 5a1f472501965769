// The Express app that was there first. What has moved to Python, it passes on: /python and below.
//
//   node express_app.js PORT PYTHON_PORT
//   DATABASE is a SQLite file, SESSION_SECRET signs the cookies.
const http = require('node:http')
const express = require('express')
const session = require('express-session')
const { Sequelize } = require('sequelize')
const SequelizeStore = require('connect-session-sequelize')(session.Store)

const [port, pythonPort] = process.argv.slice(2).map(Number)

const escaped = text => text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
const page = ({ user, visits }) => `<!doctype html>
<html lang="en">
<title>Express</title>
<h1>Express: hello ${user ? escaped(user) : 'stranger'}</h1>
<p>${visits || 0} visits, here and <a href="/python/">in Python</a>.</p>
` + (user
  ? '<form method="post" action="/logout"><button>Log out</button></form>'
  : '<form method="post" action="/login"><input name="name" required><button>Log in</button></form>')

async function main () {
  const db = new Sequelize({ dialect: 'sqlite', storage: process.env.DATABASE, logging: false })
  await db.query('PRAGMA journal_mode = WAL')
  const store = new SequelizeStore({ db })
  await store.sync()

  const app = express()

  // Before the session's middleware: the session of this request is Python's business.
  app.use('/python', (request, response, next) => {
    const { method, headers, originalUrl: path } = request
    const target = { host: '127.0.0.1', port: pythonPort, method, headers, path }
    const onward = http.request(target, answer => {
      response.writeHead(answer.statusCode, answer.rawHeaders)
      answer.pipe(response)
    })
    onward.on('error', next)
    request.pipe(onward)
  })

  app.use(session({
    secret: process.env.SESSION_SECRET,
    store,
    resave: false,
    saveUninitialized: false,
    cookie: { sameSite: 'lax' }
  }))
  app.use(express.urlencoded({ extended: false }))

  app.get('/', (request, response) => {
    if (request.session.user) request.session.visits += 1
    response.send(page(request.session))
  })
  app.post('/login', (request, response, next) => {
    // A real app asks for a password here.
    request.session.regenerate(error => {
      if (error) return next(error)
      Object.assign(request.session, { user: request.body.name, visits: 0 })
      response.redirect('/')
    })
  })
  app.post('/logout', (request, response, next) => {
    request.session.destroy(error => error ? next(error) : response.redirect('/'))
  })

  app.listen(port, '127.0.0.1')
}

main()
